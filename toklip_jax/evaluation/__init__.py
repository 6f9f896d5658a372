"""Evaluations: each a function of passed-in encode functions and data."""
