"""Weights on disk, and their conversion from PyTorch files and back."""

from toklip_jax.weights.directory import Weights, load_weights, save_weights
from toklip_jax.weights.read import read_weights

__all__ = ["Weights", "load_weights", "read_weights", "save_weights"]
