"""Benchmarks, and what they compare with; `python -m benchmarks.run` runs them."""
