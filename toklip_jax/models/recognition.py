"""Tells of which family a checkpoint is, whatever package named its tensors."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import Family, Hints, Tensors, find_family, registered

# Where a script's class, or a flax checkpoint, keeps its model.
ATTRIBUTE = re.compile(r"^(?:model\.|module\.|params/)+")


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A checkpoint's family, and its tensors in the names that the family's map is for.

    Attributes:
        names: whose they were before, for people; "" where they are the family's own.
        sizes: the fields of `Hints` that the dialect tells.
        dropped: reasons for leaving tensors aside, by the names that they have in the file.
    """

    family: Family
    tensors: Tensors
    names: str = ""
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def infer(self, hints: Hints, settings: Callable[[], Mapping[str, Any]] = dict) -> Any:
        """Returns the config of the model that the tensors are of.

        Args:
            settings: reads the `config.json` beside the file, or returns {} where there is none.
                Families that have a use for one alone ask.

        Raises:
            ValueError: a hint that these weights have no use for, or one that is missing; a
                `config.json` of another kind of model.
        """
        self.family.keys.expect_used(hints, self.family.title)
        if self.family.keys.settings is not None and "model_type" in (found := settings()):
            return self._of_settings(hints, found)
        told = {field: n for field, n in self.sizes.items() if getattr(hints, field) is None}
        return self.family.keys.infer(self.tensors, dataclasses.replace(hints, **told), "")

    def _of_settings(self, hints, settings):
        known, title = self.family.keys.settings, self.family.title
        if settings["model_type"] not in known.kinds:
            raise UserError(
                f"expected a config.json of {title}, of model_type {' or '.join(known.kinds)}, "
                f"got {settings['model_type']!r}"
            )
        if given := [name for name in hints.given if name != "family"]:
            raise UserError(
                f"expected no {' or '.join(given)} with a config.json, which says it: leave it out"
            )
        return known.read(settings)


def recognise(tensors: Tensors, name: str | None = None) -> Recognised:
    """Returns what named tensors are, whatever package named them, and below which attribute.

    Args:
        name: the family's, where the caller has said it; a TokLIP's is that of its VQ tokenizer.

    Raises:
        ValueError: of no known family, of another than `name`, or without a part that these names
            promise.
    """
    families = {family.name: family for family in registered() if family.keys}
    meant = [f for f in families.values() if name in (None, f.name) or f.role == "toklip"]
    if found := _find(tensors, meant, name):
        return found
    if name in families and (other := _find(tensors, list(families.values()), None)):
        raise UserError(
            f"expected weights of {families[name].title}, got those of {other.family.title}: leave "
            f"the family out, or say {other.family.name!r}"
        )
    return Recognised(find_family(tensors, name=name), tensors)


def _find(tensors, families, name):
    """What tensors are by the names of these families, or None."""
    return (
        _match(tensors, families, name)
        or _inside(tensors, families, name)
        or _match(_without_attribute(tensors), families, name)
    )


def _match(tensors, families, name):
    """What tensors are by their names as they stand, or None."""
    for family in families:
        if family.keys.match(tensors, is_named=name == family.name):
            kept, dropped = _used(tensors, family.keys)
            return Recognised(family, kept, dropped=dropped)
    for family, dialect in ((f, d) for f in families for d in f.keys.dialects):
        if name in (None, family.name) and all(mark in tensors for mark in dialect.marks):
            kept, dropped = _used(tensors, family.keys)
            sizes = dialect.sizes(kept)
            return Recognised(family, dialect.translate(kept), dialect.title, sizes, dropped)
    return None


def _inside(tensors, families, name):
    """What the part of a larger model is whose names begin as a family says, or None."""
    for family in families:
        for prefix in family.keys.inside:
            part = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
            if part and (found := _match(part, [family], name)):
                title = found.names or "its own names"
                why = f"a part of the model around {family.title}"
                dropped = {n: why for n in tensors if not n.startswith(prefix)}
                dropped |= {f"{prefix}{n}": reason for n, reason in found.dropped.items()}
                names = f"{title}, within another model ({prefix}*)"
                return dataclasses.replace(found, names=names, dropped=dropped)
    return None


def _used(tensors, keys):
    """The tensors that are part of the model, and the reasons why the others are none."""
    dropped = {
        name: reason
        for beginning, reason in keys.unused.items()
        for name in tensors
        if name.startswith(beginning)
    }
    return {name: x for name, x in tensors.items() if name not in dropped}, dropped


def _without_attribute(tensors):
    """The same tensors by the names they have within the attribute that a script's class has."""
    found = {ATTRIBUTE.sub("", name): tensor for name, tensor in tensors.items()}
    return found if len(found) == len(tensors) else tensors
