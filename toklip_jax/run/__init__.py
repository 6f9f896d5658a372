"""A run: its stages, their evaluation, and the encoding of caches."""
