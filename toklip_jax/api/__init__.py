"""The public API: load weights, turn images to ids, use the ids."""

from toklip_jax.api.generator import Generator
from toklip_jax.api.language_model import LanguageModel
from toklip_jax.api.loading import load
from toklip_jax.api.multimodal import MultimodalModel
from toklip_jax.api.tokenizer import Tokenizer
from toklip_jax.api.vq_tokenizer import VQTokenizer
from toklip_jax.weights.catalogue import list_models

__all__ = [
    "Generator",
    "LanguageModel",
    "MultimodalModel",
    "Tokenizer",
    "VQTokenizer",
    "list_models",
    "load",
]
