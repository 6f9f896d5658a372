"""The conditions that users pass to a generator: classes, or features of captions; checked."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from toklip_jax.api.inputs import Vectors
from toklip_jax.core.errors import UserError
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.models.generator.gpt import left_padded


class Condition(NamedTuple):
    """A condition for each image.

    Attributes:
        rows: class ids int32 [b], or captions' features float32 [b, p, c].
        valid: which of a caption's rows count, bool [b, p]; None where all do.
    """

    rows: Any
    valid: Any = None


def check_condition(gpt: GPTConfig, classes: Any, captions: Any, valid: Any) -> Condition:
    """Returns the condition that was given, as the generator takes it.

    Raises:
        ValueError: the kind that this generator does not take, or another shape, type or range.
    """
    name, other = ("captions", "classes") if gpt.caption_dim else ("classes", "captions")
    given = {"classes": classes, "captions": captions}
    if given[other] is not None or given[name] is None:
        raise UserError(
            f"expected {name}=[...] with this generator, which was trained on {name}, and no "
            f"{other}"
        )
    if gpt.caption_dim:
        return _check_captions(gpt, captions, valid)
    if valid is not None:
        raise UserError("expected valid with captions only, got it with classes")
    return Condition(check_classes(classes, gpt.num_classes))


def check_classes(classes: Any, num_classes: int) -> Int32[np.ndarray, " b"]:
    """Returns class ids: those of the model, or the null class after them.

    Raises:
        ValueError: others, none, or no integers [b].
    """
    try:
        array = np.asarray(classes)
    except ValueError:  # rows of several lengths
        raise UserError(f"expected integer classes [b], got {classes!r}") from None
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise UserError(
            f"expected integer classes [b], at least one, got {array.dtype} {list(array.shape)}: "
            f"pass a list of numbers, such as classes=[3]"
        )
    if not (array.min() >= 0 and array.max() <= num_classes):
        raise UserError(
            f"expected classes from 0 to {num_classes - 1}, or {num_classes} for none, got "
            f"{array.min()} to {array.max()}"
        )
    return array.astype(np.int32)


def null_condition(gpt: GPTConfig, rows: Any, uncond: Any, negative_class: int | None) -> Any:
    """Returns the null condition of each row, which guidance leads away from.

    Args:
        rows: the condition's, `Condition.rows`.
        uncond: the features that stand for no caption; None with classes.
        negative_class: a class in place of the null class.
    """
    check_negative_class(gpt, negative_class)
    if gpt.caption_dim:
        return jnp.broadcast_to(uncond.astype(rows.dtype), rows.shape)
    chosen = gpt.null_class if negative_class is None else negative_class
    return np.full(len(rows), chosen, np.int32)


def check_negative_class(gpt: GPTConfig, negative_class: int | None) -> None:
    """Raises ValueError for a class that is none of the model's, or for one beside captions."""
    if negative_class is None:
        return
    if gpt.caption_dim:
        raise UserError("expected no negative_class with captions, got one")
    check_classes([negative_class], gpt.num_classes)


def _check_captions(gpt, captions, valid) -> Condition:
    kind = Vectors((gpt.caption_length, gpt.caption_dim), "captions' features")
    captions = kind.prepare(kind.check(captions))
    if not len(captions):
        raise UserError("expected the features of at least one caption, got none")
    if not np.isfinite(np.asarray(captions)).all():
        raise UserError("expected finite features of captions, got NaN or infinity among them")
    if valid is None:
        return Condition(captions)
    valid = np.asarray(valid)
    if valid.shape != captions.shape[:2] or valid.dtype != bool:
        raise UserError(
            f"expected valid as bool {list(captions.shape[:2])}, got {valid.dtype} "
            f"{list(valid.shape)}"
        )
    if not valid.any(axis=1).all():
        raise UserError("expected each caption to have a row that counts, got one without")
    return Condition(*left_padded(jnp.asarray(captions), jnp.asarray(valid)))
