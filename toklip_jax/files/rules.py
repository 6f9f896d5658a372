"""Conversion maps as data, and the engine that applies them in both directions.

A rule pairs a PyTorch name with a path of ours and an einops pattern. The pattern is read from left
to right on the way in and from right to left on the way out, so a map can't disagree with itself;
the sizes it needs come from the model's own shapes.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import einops
import jax.numpy as jnp
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files import AnyLazy, LazyArray, lazy_stack

SAME = ""  # the pattern of a tensor that is taken as it is
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a map.

    Attributes:
        source: PyTorch's name; `{i}` and `{j}` stand for numbers, `{A}` and other capitals for a
            letter.
        target: slash path of ours, with the same placeholders; None carries the tensor along
            unchanged, beside the parameters. Where PyTorch has a tensor for each entry along a
            parameter's first axis, `codebook[{i}]` is entry i of the parameter `codebook`.
        pattern: einops pattern from PyTorch's axes to ours.
        reason: why a carried tensor is no parameter.
        copy_of: PyTorch's name of the parameter that a carried tensor repeats, "" where none. It is
            checked on the way in, and written as what the parameter is by then.
    """

    source: str
    target: str | None
    pattern: str = SAME
    reason: str = ""
    copy_of: str = ""


class MapError(UserError):
    """All that does not fit between a checkpoint and a model, in one report."""


def to_jax(
    tensors: Mapping[str, AnyLazy], rules: Sequence[Rule], shapes: Shapes
) -> tuple[dict[str, AnyLazy], dict[str, AnyLazy]]:
    """Returns (parameters by slash path, carried tensors by PyTorch's name); views where possible.

    One number may have one axis or none: some packages write `logit_scale` as a list of one.

    Args:
        shapes: the shapes of every parameter of the model, its layers unrolled.

    Raises:
        MapError: unknown, missing, duplicate or misshaped keys, or integers for parameters.
    """
    whole, shapes = shapes, _with_entries(shapes, rules)
    params, carried, faults, origin = {}, {}, [], {}
    for name, array in tensors.items():
        rule, path = match(name, rules)
        shown = printable(name)
        if rule is None or (path is not None and path not in shapes):
            faults.append(f"unknown: {shown} {array.shape}")
        elif path is None:
            carried[name] = array
        elif path in params:
            faults.append(f"duplicate: {shown} and {origin[path]} both give {path}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            faults.append(f"not floating-point: {shown} is {array.dtype}, as in quantised weights")
            params[path] = origin[path] = None
        elif _shape(array, shapes[path]) != (expected := torch_shape(rule.pattern, shapes[path])):
            faults.append(f"misshaped: {shown} is {array.shape}, expected {expected}")
            params[path] = origin[path] = None
        else:
            params[path], origin[path] = _forward(array, rule.pattern, shapes[path]), name
    sources = {path: name for name, path in reverse_names(rules, shapes).items()}
    for path in sorted(set(shapes) - set(params)):
        faults.append(f"missing: {sources.get(path, path)} {shapes[path]}")
    _raise(faults)
    return _joined(params, whole), carried


def to_torch(
    params: Mapping[str, AnyLazy], rules: Sequence[Rule], carried: Mapping[str, np.ndarray]
) -> dict[str, AnyLazy]:
    """Returns PyTorch's tensors of unrolled parameters; a round trip with `to_jax` is bit-exact.

    Each is rearranged only when it is looked at: all of them at once would double the memory.
    """
    shapes = {path: tuple(array.shape) for path, array in params.items()}
    names = reverse_names(rules, shapes)
    covered = set(names.values())
    shapes = _with_entries(shapes, rules)
    _raise([f"unknown: {path} {shapes[path]}" for path in shapes if path not in covered])
    tensors = {}
    for name, path in names.items():
        tensors[name] = _backward(_taken(params, path), match(name, rules)[0].pattern)
    return {**tensors, **_carried(carried, rules, tensors)}


def copies(carried: Iterable[str], rules: Sequence[Rule]) -> dict[str, str]:
    """Returns, for each carried tensor that repeats a parameter, PyTorch's name of that."""
    found = {name: match(name, rules)[0] for name in carried}
    return {name: rule.copy_of for name, rule in found.items() if rule and rule.copy_of}


def reverse_names(rules: Sequence[Rule], paths: Shapes) -> dict[str, str]:
    """Returns PyTorch's name of every path that a rule covers, or of each entry (see `Rule`)."""
    names = {}
    for path in _with_entries(paths, rules):
        for rule in rules:
            if rule.target and (found := template_regex(rule.target).fullmatch(path)):
                names[rule.source.format(**found.groupdict())] = path
                break
    return names


def match(name: str, rules: Sequence[Rule]) -> tuple[Rule | None, str | None]:
    """Returns the rule that covers a PyTorch name, and the path it gives; (None, None) if none."""
    for rule in rules:
        if found := template_regex(rule.source).fullmatch(name):
            return rule, rule.target and rule.target.format(**found.groupdict())
    return None, None


@functools.cache
def template_regex(template: str) -> re.Pattern[str]:
    """Returns the pattern of the names that a rule's source or target stands for."""
    escaped = re.sub(r"\\\{([A-Z])\\\}", r"(?P<\1>[a-z])", re.escape(template))
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", escaped))


def torch_shape(pattern: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns PyTorch's shape of a parameter that has `shape` here."""
    if not pattern:
        return tuple(shape)
    left, right = _sides(pattern)
    sizes = dict(zip(right.split(), shape, strict=True)) | {"1": 1}
    groups = re.findall(r"\([^)]*\)|\S+", left)
    return tuple(math.prod(sizes[axis] for axis in group.strip("()").split()) for group in groups)


def _carried(carried, rules, tensors):
    """Carried tensors, with those that repeat parameters as the parameters are."""
    repeated = copies(carried, rules)
    return {n: tensors[repeated[n]] if n in repeated else x for n, x in carried.items()}


def _with_entries(shapes, rules):
    """Shapes by path; a parameter whose rule names its entries has a path and shape for each."""
    wholes = [rule.target.partition("[")[0] for rule in rules if rule.target and "[" in rule.target]
    found = {}
    for path, shape in shapes.items():
        if any(template_regex(whole).fullmatch(path) for whole in wholes):
            found |= {f"{path}[{i}]": tuple(shape[1:]) for i in range(shape[0])}
        else:
            found[path] = tuple(shape)
    return found


def _joined(params, shapes):
    """Parameters by the paths of `shapes`, entries stacked."""
    joined = {}
    for path, array in params.items():
        whole = path.partition("[")[0]
        if whole == path:
            joined[path] = array
        elif whole not in joined:
            entries = [params[f"{whole}[{i}]"] for i in range(shapes[whole][0])]
            if len(dtypes := {str(entry.dtype) for entry in entries}) > 1:
                _raise([f"of several types: the entries of {whole} are {sorted(dtypes)}"])
            joined[whole] = lazy_stack(entries)
    return joined


def _taken(params, path):
    """The parameter at `path`, or the entry of one."""
    if path in params:
        return params[path]
    whole, _, place = path.removesuffix("]").partition("[")
    array, i = params[whole], int(place)
    return LazyArray(tuple(array.shape[1:]), array.dtype, lambda: np.asarray(array)[i])


def _shape(array, expected):
    return () if expected == () and array.shape == (1,) else tuple(array.shape)


def _forward(array, pattern, shape):
    if isinstance(array, LazyArray):
        return LazyArray(shape, array.dtype, lambda: _forward(np.asarray(array), pattern, shape))
    if not pattern:
        return array.reshape(shape)
    sizes = dict(zip(_sides(pattern)[1].split(), shape, strict=True))
    return einops.rearrange(array, pattern, **sizes)


def _backward(array, pattern):
    if not pattern:
        return array
    left, right = _sides(pattern)

    def make():
        return einops.rearrange(np.asarray(array), f"{right} -> {left}")

    return LazyArray(torch_shape(pattern, array.shape), array.dtype, make)


def _sides(pattern):
    left, _, right = pattern.partition("->")
    return left.strip(), right.strip()


def _raise(faults):
    if faults:
        shown = faults[:40] + ([f"... and {len(faults) - 40} more"] if len(faults) > 40 else [])
        raise MapError(f"{len(faults)} keys don't fit:\n  " + "\n  ".join(shown))
