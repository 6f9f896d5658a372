"""The command `toklip`, and the commands in it, which `python -m` runs too."""
