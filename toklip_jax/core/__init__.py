"""Errors, names and fields, the compile cache: what everything may use."""
