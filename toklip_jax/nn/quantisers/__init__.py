"""Quantisers turn latents into ids, and ids into vectors; each is a module of its own."""

from toklip_jax.nn.quantisers.base import Quantised, Quantiser
from toklip_jax.nn.quantisers.config import QuantiserConfig
from toklip_jax.nn.quantisers.inner_product import InnerProductQuantiser
from toklip_jax.nn.quantisers.residual import ResidualQuantiser
from toklip_jax.nn.quantisers.several import SeveralCodebooks
from toklip_jax.nn.quantisers.sign import SignQuantiser, check_bits
from toklip_jax.nn.quantisers.vector import VectorQuantiser

__all__ = [
    "InnerProductQuantiser",
    "Quantised",
    "Quantiser",
    "QuantiserConfig",
    "ResidualQuantiser",
    "SeveralCodebooks",
    "SignQuantiser",
    "VectorQuantiser",
    "check_bits",
]
