"""TokLIP in JAX: images to discrete ids, and ids to tokens with CLIP-level meaning."""

from toklip_jax.api import Tokenizer, VQTokenizer, load

__all__ = ["Tokenizer", "VQTokenizer", "load"]
