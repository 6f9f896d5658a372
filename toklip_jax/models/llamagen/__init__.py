"""LlamaGen's VQ-16 and VQ-8 (arXiv 2406.06525)."""

from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.llamagen.model import LlamaGenVQ

__all__ = ["LlamaGenConfig", "LlamaGenVQ"]
