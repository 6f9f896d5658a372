"""One folder a training task; `registry.py` is the list."""
