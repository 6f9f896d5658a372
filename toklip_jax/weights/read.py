"""Weights from whatever holds them."""

import pathlib

from toklip_jax.models.base import Hints
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.conversion import convert_checkpoint
from toklip_jax.weights.directory import Weights, load_weights


def read_weights(
    path: str | pathlib.Path,
    *,
    num_heads: int | None = None,
    text_num_heads: int | None = None,
    is_causal: bool | None = None,
    is_l2_normalised: bool = True,
) -> Weights:
    """Reads a converted directory, or a PyTorch file with the sizes its shapes can't tell.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: see `load_weights`, `read_checkpoint`, `convert_checkpoint`.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return load_weights(path)
    hints = Hints(num_heads, text_num_heads, is_causal, is_l2_normalised)
    return convert_checkpoint(read_checkpoint(path), hints)
