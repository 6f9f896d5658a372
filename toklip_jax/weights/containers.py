"""Finds the weights, and their own names, in what a training script saved."""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files.torch_zip import Inert
from toklip_jax.weights.running_means import Chosen, choose_weights

# Where training scripts keep the weights, the ones to prefer first.
RAW = (
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "net",
    "weights",
    "params",
    "student",
    "trainer",  # UniTok: trainer.unitok
    "unitok",
)
RUNNING_MEANS = (
    "ema",
    "model_ema",
    "ema_model",
    "state_dict_ema",
    "params_ema",
    "ema_state_dict",
)
# Of wrappers: torch.compile, Lightning, FSDP, activation checkpoints; and DistributedDataParallel.
WRAPPERS = re.compile(
    r"(?:^(?:module\.)+|(?<![^.])"
    r"(?:(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+)"
)


@dataclasses.dataclass(frozen=True)
class Found:
    """The weights of a file; see `Checkpoint`."""

    tensors: dict[str, np.ndarray]
    dropped: dict[str, str]
    taken: str
    is_choice: bool
    is_mean: bool


def find_weights(
    tree: Any, path: pathlib.Path, is_ema: bool | None = None, prefers_mean: bool = True
) -> Found:
    """Returns the arrays of the innermost container of weights, and what lay beside them.

    A container counts where it has at least as many arrays as lie beside it, so that a lone tensor
    (`best_acc1`, `step`) hides none. A running mean may be a container or, by names without dots,
    among the weights.

    Args:
        tree: the contents of the file at `path`.
        is_ema, prefers_mean: see `read_checkpoint`.

    Raises:
        ValueError: no named arrays, or not those that `is_ema` asks for.
    """
    search = _Search(prefers_mean if is_ema is None else is_ema)
    tree = search.descend(tree) if isinstance(tree, dict) else {}
    if not _count_arrays(tree):
        raise UserError(
            f"expected named tensors in {path}, found none: save a state_dict by torch.save, or "
            f"safetensors"
        )
    tensors, rest = _named_arrays(tree, path)
    # A container's running mean is that of all weights: there is no second choice within it.
    chosen = Chosen(tensors) if search.is_mean else choose_weights(tensors, is_ema, prefers_mean)
    is_mean = search.is_mean or chosen.is_mean
    if is_ema is not None and is_ema != is_mean:
        wanted, found = ("a running mean of", "raw") if is_ema else ("raw", "a running mean of")
        raise UserError(f"expected {wanted} weights in {path}, found {found} weights only")
    dropped = search.dropped | {f"{search.prefix}{name}": why for name, why in rest.items()}
    taken = "; ".join(filter(None, (search.taken, chosen.taken)))
    is_choice = is_ema is None and (search.is_choice or chosen.is_choice)
    return Found(chosen.tensors, dropped, taken, is_choice, is_mean)


class _Search:
    """The way from the top of what was saved to the weights."""

    def __init__(self, wants_mean: bool):
        self._wants_mean = wants_mean
        self._fullest: dict[int, int] = {}  # by id of a dict, which lives as long as the tree
        self._visited: set[int] = set()
        self.dropped: dict[str, str] = {}
        self.prefix = ""
        self.is_mean = self.is_choice = False

    @property
    def taken(self) -> str:
        what = "the running mean" if self.is_mean else "those"
        return self.prefix and f"{what} in {printable(self.prefix.removesuffix('.'))}"

    def descend(self, tree: dict) -> dict:
        """Returns the innermost container."""
        while name := self._choose(tree):
            where = printable(f"{self.prefix}{name}")
            kind = "the running mean" if name in RUNNING_MEANS else "the weights"
            for other in tree:
                if other != name:
                    self.dropped[f"{self.prefix}{other}"] = f"beside {kind}, which are in {where}"
            self.is_mean = self.is_mean or name in RUNNING_MEANS
            tree, self.prefix = tree[name], f"{self.prefix}{name}."
        return tree

    def _choose(self, tree):
        """The name of the container to descend into, or None."""
        self._visited.add(id(tree))
        inner = {
            name: self._weigh(tree[name])
            for name in (*RAW, *RUNNING_MEANS)
            if isinstance(tree.get(name), dict) and id(tree[name]) not in self._visited
        }
        most = max(inner.values(), default=0)
        if not most or most < _count_arrays(tree):
            return None
        # A running mean may lack what isn't trained; one of a few numbers is none of the weights.
        full = [name for name, count in inner.items() if 2 * count >= most]
        means = [name for name in full if name in RUNNING_MEANS]
        raw = [name for name in full if name in RAW]
        self.is_choice = self.is_choice or bool(means and raw)
        return (means + raw if self._wants_mean else raw + means)[0]

    def _weigh(self, tree):
        """The number of arrays in a dict, or in the fullest container within it."""
        if id(tree) not in self._fullest:
            self._fullest[id(tree)] = 0  # where a dict holds itself
            inner = (tree.get(name) for name in (*RAW, *RUNNING_MEANS))
            counts = [self._weigh(each) for each in inner if isinstance(each, dict)]
            self._fullest[id(tree)] = max([_count_arrays(tree), *counts])
        return self._fullest[id(tree)]


def _count_arrays(tree):
    return sum(isinstance(value, np.ndarray) for value in tree.values())


def _named_arrays(tree, path):
    """The arrays by their own names, and why the other entries are none."""
    tensors, rest = {}, {}
    for key, value in tree.items():
        if not isinstance(value, np.ndarray):
            kind = value.name if isinstance(value, Inert) else type(value).__name__
            rest[str(key)] = f"no tensor ({printable(kind)})"
            continue
        name = WRAPPERS.sub("", str(key))
        if name in tensors:
            raise UserError(f"expected each tensor once in {path}, got {printable(name)} twice")
        tensors[name] = value
    return tensors, rest
