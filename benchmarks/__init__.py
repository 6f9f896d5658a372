"""What is measured, against what; `python -m benchmarks.run` runs it."""
