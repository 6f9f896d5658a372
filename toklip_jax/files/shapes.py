"""Sizes read from the shapes of named tensors, each checked before it is used."""

import re
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError

MAX_LAYERS = 512  # GPT-3 has 96


def shape_of(tensors: Mapping[str, Any], name: str, rank: int) -> tuple[int, ...]:
    """Returns the shape of the tensor called `name`.

    Raises:
        ValueError: it is not there, has another number of axes than `rank`, or an axis of 0.
    """
    if name not in tensors:
        raise UserError(f"expected a tensor called {name}, found none: the checkpoint lacks a part")
    shape = tuple(tensors[name].shape)
    if len(shape) != rank or 0 in shape:
        raise UserError(
            f"expected {name} to have {rank} axes, none of them empty, got the shape {shape}: the "
            f"checkpoint is damaged or another model's"
        )
    return shape


def count_layers(tensors: Mapping[str, Any], pattern: str, most: int = MAX_LAYERS) -> int:
    """Returns how many numbers the pattern's group captures in the names, which count from 0.

    Raises:
        ValueError: none, more than `most`, or some are left out between the first and the last.
    """
    regex = re.compile(pattern)
    found = {int(m[1]) for name in tensors if (m := regex.match(name)) and len(m[1]) < 10}
    if not found:
        raise UserError(f"expected tensors called {pattern}, found none: no such layers")
    if max(found) + 1 != len(found):
        missing = next(i for i in range(len(found)) if i not in found)
        raise UserError(
            f"expected layers 0 to {max(found)} among the tensors called {pattern}, found no "
            f"number {missing}: the checkpoint lacks a part"
        )
    if len(found) > most:
        raise UserError(
            f"expected at most {most} layers among the tensors called {pattern}, got {len(found)}: "
            f"the checkpoint is damaged or another model's"
        )
    return len(found)
