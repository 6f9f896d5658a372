"""Drawing sequences of ids: filters of logits, and the loop with a cache."""

from toklip_jax.decoding.filters import filter_logits, guide
from toklip_jax.decoding.loop import decode
from toklip_jax.decoding.sampling import Sampling, draw, row_keys

__all__ = ["Sampling", "decode", "draw", "filter_logits", "guide", "row_keys"]
