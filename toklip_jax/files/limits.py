"""Limits of what is read from a foreign file, whatever its format."""

MAX_TENSORS = 2**15  # TokLIP has 1,300, and five times as many with an optimizer and a running mean
MAX_NDIM = 32  # numpy's own limit is 64
