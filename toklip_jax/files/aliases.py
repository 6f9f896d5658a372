"""Another package's names for the tensors of a map, as data: renamed, cut, joined and turned."""

import dataclasses
from collections.abc import Mapping, Sequence

import einops
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files.lazy import AnyLazy, LazyArray
from toklip_jax.files.rules import template_regex

SAME = ""


@dataclasses.dataclass(frozen=True)
class Alias:
    """A tensor of the map, and how it is made from another package's.

    Attributes:
        target: the map's name; `{i}` stands for a number.
        sources: the other package's names; several are joined along the first axis.
        pattern: einops pattern that each source is rearranged by first.
        thirds: (first, last) third of the first axis that is taken; None takes all.
    """

    target: str
    sources: tuple[str, ...]
    pattern: str = SAME
    thirds: tuple[int, int] | None = None


def translate(tensors: Mapping[str, AnyLazy], aliases: Sequence[Alias]) -> dict[str, AnyLazy]:
    """Returns tensors by the map's names; those that no alias covers keep theirs.

    What is joined is made when it is read, everything else is a view.

    Raises:
        ValueError: tensors to be joined are not all there, or of shapes that don't fit.
    """
    translated, parts = {}, {}
    for name, tensor in tensors.items():
        found = list(_targets(name, aliases))
        if not found:
            translated[name] = tensor
        for target, alias, place in found:
            parts.setdefault(target, (alias, {}))[1][place] = (name, tensor)
    for target, (alias, found) in parts.items():
        if target in translated:
            raise UserError(f"expected each tensor once, got {printable(target)} twice")
        translated[target] = _join(target, alias, found)
    return translated


def _targets(name, aliases):
    """The tensors that one of this name is part of, and which part."""
    for alias in aliases:
        for place, source in enumerate(alias.sources):
            if match := template_regex(source).fullmatch(name):
                yield alias.target.format(**match.groupdict()), alias, place


def _join(target, alias, found):
    if len(found) < len(alias.sources):
        names = ", ".join(printable(name) for name, _ in found.values())
        raise UserError(
            f"expected {len(alias.sources)} tensors that make up {target}, got {len(found)} "
            f"({names}): the checkpoint lacks a part"
        )
    parts = [_part(*found[place], alias) for place in range(len(alias.sources))]
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if any(x.shape != first.shape or x.dtype != first.dtype or not x.ndim for x in parts):
        shapes = ", ".join(f"{x.shape} {x.dtype}" for x in parts)
        raise UserError(f"expected equal tensors that make up {target}, got {shapes}")
    shape = (len(parts) * first.shape[0], *first.shape[1:])
    return LazyArray(shape, first.dtype, lambda: np.concatenate([np.asarray(x) for x in parts]))


def _part(name, tensor, alias):
    if alias.pattern:
        axes = alias.pattern.partition("->")[0].split()
        if tensor.ndim != len(axes) or 0 in tensor.shape:
            raise UserError(
                f"expected {printable(name)} to have {len(axes)} axes, none of them empty, got the "
                f"shape {tensor.shape}: the checkpoint is damaged or another model's"
            )
        ones = [n for axis, n in zip(axes, tensor.shape, strict=True) if axis == "1"]
        if any(n != 1 for n in ones):
            raise UserError(f"misshaped: {printable(name)} is {tensor.shape}, expected {axes}")
        tensor = einops.rearrange(tensor, alias.pattern)
    if alias.thirds:
        if not tensor.ndim or tensor.shape[0] % 3:
            raise UserError(
                f"expected a first axis divisible by 3 of {printable(name)}, got {tensor.shape}"
            )
        first, last = (third * tensor.shape[0] // 3 for third in alias.thirds)
        tensor = tensor[first:last]
    return tensor
