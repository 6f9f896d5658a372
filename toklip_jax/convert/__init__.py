"""PyTorch weights in, PyTorch weights out."""

from toklip_jax.convert.api import read_weights
from toklip_jax.convert.start import Start, start_toklip

__all__ = ["Start", "read_weights", "start_toklip"]
