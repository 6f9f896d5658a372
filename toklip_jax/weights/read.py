"""Weights from whatever holds them."""

import dataclasses
import pathlib

from toklip_jax.core.fields import check_type
from toklip_jax.models.base import Hints
from toklip_jax.weights.base import Weights
from toklip_jax.weights.checkpoint_file import holds_checkpoint, read_checkpoint
from toklip_jax.weights.conversion import convert_checkpoint
from toklip_jax.weights.directory import is_weights, load_weights


def read_weights(
    path: str | pathlib.Path,
    *,
    num_heads: int | None = None,
    text_num_heads: int | None = None,
    is_causal: bool | None = None,
    is_l2_normalised: bool = True,
) -> Weights:
    """Reads a converted directory, or a PyTorch checkpoint with the sizes its shapes can't tell.

    Args:
        path: the path of a directory that `save_weights` wrote; of a `.safetensors` or PyTorch
            file; or of safetensors files with an index, the index or the directory that holds it.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: sizes given for a converted directory, which says its own; see also
            `load_weights`, `read_checkpoint`, `convert_checkpoint`.
    """
    path = pathlib.Path(path)
    for name, value in {"num_heads": num_heads, "text_num_heads": text_num_heads}.items():
        check_type(value, int | None, name)
    check_type(is_causal, bool | None, "is_causal")
    hints = Hints(num_heads, text_num_heads, is_causal, is_l2_normalised)
    if is_converted(path):
        expect_no_hints(hints, path)
        return load_weights(path)
    return convert_checkpoint(read_checkpoint(path), hints)


def is_converted(path: str | pathlib.Path) -> bool:
    """Tells whether a path is read as a converted directory, not as a PyTorch checkpoint."""
    path = pathlib.Path(path)
    return path.is_dir() and (is_weights(path) or not holds_checkpoint(path))


def expect_no_hints(hints: Hints, directory: pathlib.Path) -> None:
    """Raises ValueError where hints are given for a converted directory, which says its sizes."""
    fields = dataclasses.fields(Hints)
    given = [field.name for field in fields if getattr(hints, field.name) != field.default]
    if given:
        raise ValueError(
            f"expected no {' or '.join(given)} with the converted directory {directory}, whose "
            f"config says it: leave it out, or load the PyTorch file"
        )
