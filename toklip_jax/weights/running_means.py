"""Running means that stand among the weights: Lightning's `model_ema`, of names without dots.

VQGAN's descendants keep a copy of every trained tensor in a module `model_ema`, where the tensor
`encoder.conv_in.weight` is called `encoderconv_inweight`, and two counters beside the copies.
Within a larger model, TokLIP-XL for example, the module is that of the part alone, and the model
was trained on the part's raw weights.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable

MODULE = "model_ema."
COUNTERS = ("decay", "num_updates")
COPY = re.compile(r"(?P<prefix>(?:.+\.)?)model_ema\.(?P<flat>[^.]+)")
MAX_MODULES = 8  # of a file; one in all that are known

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The weights, after a choice between raw ones and running means.

    Attributes:
        tensors: the weights by their own names; raw, they have the copies beside them, and else
            only the counters.
        taken: a description of the choice, "" where there was none.
        is_mean: whether running means were taken.
        is_choice: whether there are running means and raw weights.
    """

    tensors: dict[str, np.ndarray]
    taken: str = ""
    is_mean: bool = False
    is_choice: bool = False


def choose_weights(tensors: Tensors, is_ema: bool | None, prefers_mean: bool = True) -> Chosen:
    """Returns the raw weights of named tensors, or running means in their place.

    Args:
        is_ema: whether to take running means; None takes those of a whole model where
            `prefers_mean`, and the raw weights of a model whose part alone has them.

    Raises:
        ValueError: running means are taken, and their names are not those of the weights without
            dots, or are those of two, or their shapes are others; or there are more than
            `MAX_MODULES` of them.
    """
    chosen, taken, is_mean = dict(tensors), [], False
    for prefix, flat_names in _modules(tensors).items():
        # All names lie between these two.
        is_whole = min(tensors).startswith(prefix) and max(tensors).startswith(prefix)
        if is_ema or (is_ema is None and is_whole and prefers_mean):
            raw_names = _raw_names(tensors, prefix, flat_names)
            chosen = _replaced(chosen, prefix, raw_names)
            taken.append(_description(tensors, prefix, raw_names))
            is_mean = True
        elif is_whole:
            taken.append(f"the raw weights, not their running mean in {_shown(prefix)}")
        else:
            taken.append(
                f"the raw weights of {printable(prefix.removesuffix('.'))}, which the model around "
                f"it was trained on, not their running mean in {_shown(prefix)}"
            )
    return Chosen(chosen, "; ".join(taken), is_mean, bool(taken))


def _modules(tensors):
    """The copies' names of each `model_ema` by what stands before it, without the counters."""
    modules = {}
    for name in tensors:
        if (found := COPY.fullmatch(name)) and found["flat"] not in COUNTERS:
            modules.setdefault(found["prefix"], []).append(found["flat"])
    if len(modules) > MAX_MODULES:
        raise UserError(
            f"expected at most {MAX_MODULES} modules of running means, got {len(modules)}: the "
            f"checkpoint is damaged or another model's"
        )
    return modules


def _raw_names(tensors, prefix, flat_names):
    """The name of the raw tensor of each copy."""
    candidates = {}
    for name in tensors:
        if name.startswith(prefix) and not COPY.fullmatch(name):
            candidates.setdefault(name.removeprefix(prefix).replace(".", ""), []).append(name)
    for flat in flat_names:
        found = candidates.get(flat, [])
        if len(found) != 1:
            names = " and ".join(map(printable, found)) or "none"
            raise UserError(
                f"expected one tensor whose name without dots is that of the running mean "
                f"{printable(f'{prefix}{MODULE}{flat}')}, got {names}: take the raw weights "
                f"(--weights=raw, is_ema=False)"
            )
    raw_names = {flat: candidates[flat][0] for flat in flat_names}
    for flat, raw in raw_names.items():
        _expect_same_shape(tensors, f"{prefix}{MODULE}{flat}", raw)
    return raw_names


def _expect_same_shape(tensors, copy, raw):
    ours, theirs = tensors[raw].shape, tensors[copy].shape
    if ours != theirs:
        raise UserError(
            f"expected the running mean {printable(copy)} to have the shape {tuple(ours)} of "
            f"{printable(raw)}, got {tuple(theirs)}: take the raw weights (--weights=raw, "
            f"is_ema=False)"
        )


def _replaced(tensors, prefix, raw_names):
    copies = {raw: f"{prefix}{MODULE}{flat}" for flat, raw in raw_names.items()}
    left_out = set(copies.values())
    return {n: tensors[copies.get(n, n)] for n in tensors if n not in left_out}


def _description(tensors, prefix, raw_names):
    others = [name for name in tensors if name.startswith(prefix) and not COPY.fullmatch(name)]
    missing = sorted(set(others) - set(raw_names.values()))
    what = f"the running mean in {_shown(prefix)}"
    if not missing:
        return what
    some = ", ".join(map(printable, missing[:3])) + (", ..." if len(missing) > 3 else "")
    return f"{what}, and raw what it leaves out ({len(missing)}: {some})"


def _shown(prefix):
    return printable(f"{prefix}{MODULE}".removesuffix("."))
