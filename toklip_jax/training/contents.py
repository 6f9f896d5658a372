"""The description of a checkpoint's contents: every array's shape, dtype and checksum, sealed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax

from toklip_jax.training.checksums import checksums
from toklip_jax.training.reading import Damaged, Refused

CONTENT, SEAL = "content", "sha256"


def describe_arrays(tree: Any) -> dict[str, list[Any]]:
    """Returns [shape, dtype, checksum] of each array by its name, as json data."""
    sums = checksums(list(_named(tree).values()))
    outlined = outlines(tree).items()
    return {name: [*outline, n] for (name, outline), n in zip(outlined, sums, strict=True)}


def outlines(tree: Any) -> dict[str, list[Any]]:
    """Returns [shape, dtype] of each array, or of what stands for one, by its name."""
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in _named(tree).items()}


def expect_same(where: str, saved: Mapping[str, list[Any]], wanted: Any) -> None:
    """Compares the outlines of what was saved with the arrays that are wanted.

    Raises:
        Refused: they differ.
    """
    wanted = outlines(wanted)
    differ = sorted(n for n in saved.keys() | wanted if saved.get(n) != wanted.get(n))
    if differ:
        lines = [f"{n}: saved {_text(saved, n)}, wanted {_text(wanted, n)}" for n in differ[:5]]
        raise Refused(
            f"{where} is of another model or optimizer; {len(differ)} entries differ: "
            + "; ".join(lines)
        )


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns json data with a hash of itself."""
    plain = json.loads(json.dumps(content))
    return {CONTENT: plain, SEAL: _digest(plain)}


def unseal(saved: Any) -> dict[str, Any]:
    """Undoes `seal`; what earlier versions saved without a seal becomes a `description`.

    Raises:
        Damaged: it is not what was sealed.
    """
    if not isinstance(saved, dict):
        raise Damaged("its description is no json object")
    if not {CONTENT, SEAL} & saved.keys():
        return {"description": saved}
    if saved.keys() != {CONTENT, SEAL} or _digest(saved[CONTENT]) != saved[SEAL]:
        raise Damaged("the checksum of its description differs")
    return saved[CONTENT]


def _digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _text(entries, name):
    if name not in entries:
        return "None"
    shape, dtype = entries[name]
    return str((tuple(shape), dtype))


def _named(tree) -> dict[str, Any]:
    """Returns the leaves by name; a tuple's names are those of a dict with digits as keys."""

    def name(path):
        return "/".join(
            str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path
        )

    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
