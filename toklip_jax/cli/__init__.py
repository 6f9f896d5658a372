"""The commands that `python -m` runs."""
