"""Weights from whatever holds them."""

import logging
import pathlib

import numpy as np

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.fields import check_type
from toklip_jax.core.home import expand_user
from toklip_jax.models.base import Hints, family_of, registered
from toklip_jax.weights.base import Weights
from toklip_jax.weights.checkpoint_file import Checkpoint, holds_checkpoint, read_checkpoint
from toklip_jax.weights.conversion import convert_checkpoint
from toklip_jax.weights.directory import is_weights, load_weights

logger = logging.getLogger(__name__)


def read_weights(
    path: str | pathlib.Path,
    *,
    num_heads: int | None = None,
    text_num_heads: int | None = None,
    is_causal: bool | None = None,
    is_l2_normalised: bool = True,
    is_ema: bool | None = None,
    family: str | None = None,
    grid: int | tuple[int, int] | None = None,
) -> Weights:
    """Reads a converted directory, or a PyTorch checkpoint with the sizes its shapes can't tell.

    Args:
        path: the path of a directory that `save_weights` wrote; of a `.safetensors`, PyTorch or
            `.npz` file; or of safetensors files with an index, the index or the directory that
            holds it.
        is_ema: whether to take the running mean of a checkpoint's weights, or the raw ones; None
            takes the mean where there are both, or the raw ones where a part of the model alone has
            a mean, and says so. With TokLIP-XL it chooses for the VQ tokenizer.
        family: the name of the model family, where several have the same names in PyTorch: of a
            VQ tokenizer, or of that within TokLIP.
        grid: the grid of a generator's ids, or the side of a square one.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: sizes given for a converted directory, which says its own; see also
            `load_weights`, `read_checkpoint`, `convert_checkpoint`.
    """
    path = expand_user(path)
    for name, value in {"num_heads": num_heads, "text_num_heads": text_num_heads}.items():
        check_type(value, int | None, name)
    check_type(is_causal, bool | None, "is_causal")
    check_type(is_l2_normalised, bool, "is_l2_normalised")
    check_type(grid, int | tuple[int, int] | None, "grid")
    if grid is not None and np.min(grid) < 1:
        raise UserError(f"expected a grid of at least 1 place along each side, got {grid}")
    check_type(is_ema, bool | None, "is_ema")
    check_type(family, str | None, "family")
    hints = Hints(num_heads, text_num_heads, is_causal, is_l2_normalised, family, grid)
    if is_converted(path):
        expect_no_hints(hints, path, is_ema)
        return load_weights(path)
    checkpoint = read_checkpoint(path, is_ema)
    _say_what_was_taken(checkpoint, path)
    weights = convert_checkpoint(checkpoint, hints)
    if weights.dropped:
        why = ", ".join(sorted(set(weights.dropped.values())))
        logger.info("%s: left %d tensors aside: %s", path, len(weights.dropped), why)
    return weights


def read_role(role: str, path: str | pathlib.Path) -> Weights:
    """Reads weights that must be of one role, such as "teacher".

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no path, or weights of another role. Both say how to get them, if that is known.
    """
    if not str(path):
        raise UserError(missing_message(role, "no path"))
    if not expand_user(path).exists():
        raise NotFound(missing_message(role, f"{path}, which does not exist"))
    weights = read_weights(path)
    if family_of(weights.config).role != role:
        kind = type(weights.config).__name__
        raise UserError(missing_message(role, f"{path}, weights of a {kind}"))
    return weights


def missing_message(role: str, got: str) -> str:
    """Returns a line that says what came instead of a role's weights, and how to get them."""
    expected = f"expected weights of kind {role}, got {got}"
    return ": ".join(filter(None, (expected, how_to_get(role))))


def how_to_get(role: str) -> str:
    """Returns how to get the published weights of a role, or "" where that isn't known."""
    return "; ".join(f.download for f in registered() if f.role == role and f.download)


def other_choice(checkpoint: Checkpoint, ema: str, raw: str) -> str:
    """Returns what a caller who named neither can say to get the weights that were not taken.

    Args:
        ema, raw: the flags or arguments that take the running mean and the raw weights.
    """
    if not checkpoint.is_choice:
        return ""
    return f"{raw} takes the raw weights" if checkpoint.is_mean else f"{ema} takes the mean"


def is_converted(path: str | pathlib.Path) -> bool:
    """Tells whether a path is read as a converted directory, not as a PyTorch checkpoint."""
    path = pathlib.Path(path)
    return path.is_dir() and (is_weights(path) or not holds_checkpoint(path))


def expect_no_hints(hints: Hints, directory: pathlib.Path, is_ema: bool | None = None) -> None:
    """Raises ValueError where hints are given for a converted directory, which says its sizes."""
    given = [*hints.given, *(() if is_ema is None else ("is_ema",))]
    if given:
        raise UserError(
            f"expected no {' or '.join(given)} with the converted directory {directory}, whose "
            f"config says it: leave it out, or load the PyTorch file"
        )


def _say_what_was_taken(checkpoint, path):
    """Logs which of several weights a file's are, as a warning where nobody has chosen."""
    if other := other_choice(checkpoint, "is_ema=True", "is_ema=False"):
        logger.warning("%s: took %s; %s", path, checkpoint.taken, other)
    elif checkpoint.taken:
        logger.info("%s: took %s", path, checkpoint.taken)
