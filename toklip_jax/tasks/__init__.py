"""Training tasks: one folder for each, and the list of them in `registry.py`."""
