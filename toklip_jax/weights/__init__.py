"""Weights on disk, and their conversion from PyTorch files and back."""

from toklip_jax.weights.base import Weights
from toklip_jax.weights.directory import load_weights, save_weights, training_of
from toklip_jax.weights.fingerprints import fingerprint, fingerprint_params
from toklip_jax.weights.placing import place_params
from toklip_jax.weights.read import read_weights

__all__ = [
    "Weights",
    "fingerprint",
    "fingerprint_params",
    "load_weights",
    "place_params",
    "read_weights",
    "save_weights",
    "training_of",
]
