"""Model configs as plain json data, for saving beside weights."""

import dataclasses
import json
from typing import Any

from toklip_jax.models.registry import registered


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns the fields of a model's config, nested configs included, each with its `kind`."""
    names = {cls: name for name, cls in _kinds().items()}
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    plain = {
        name: config_to_dict(value) if dataclasses.is_dataclass(value) else value
        for name, value in fields.items()
    }
    return {"kind": names[type(config)], **plain}


def config_from_dict(data: dict[str, Any]) -> Any:
    """Returns the config that `config_to_dict` described.

    Raises:
        ValueError: an unknown kind or field: the data come from another version, or from a package
            that is not imported.
    """
    kinds = _kinds()
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"expected a config of kind {sorted(kinds)}, got {kind!r}")
    cls = kinds[kind]
    fields = {name: value for name, value in data.items() if name != "kind"}
    if unknown := set(fields) - {f.name for f in dataclasses.fields(cls)}:
        raise ValueError(
            f"expected the fields of a {kind} config, got {sorted(unknown)} as well: "
            f"the weights may come from a newer version"
        )
    return cls(**{name: _from_plain(value) for name, value in fields.items()})


def complete(tree: Any) -> Any:
    """Returns json data with every model config in it completed by the fields it left out.

    So that a config of an earlier version, which had fewer fields, equals the same one of today.
    """
    if isinstance(tree, list):
        return [complete(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if isinstance(tree.get("kind"), str) and tree["kind"] in _kinds():
        try:
            return json.loads(json.dumps(config_to_dict(config_from_dict(tree))))
        except (ValueError, TypeError):
            return tree  # of a later version, or damaged: compared as it is
    return {name: complete(value) for name, value in tree.items()}


def _kinds():
    """The types of configs, and of configs within them, by their `kind`."""
    kinds = {}
    for family in registered():
        kinds |= {family.name: family.config, **family.parts}
    return kinds


def _from_plain(value):
    if isinstance(value, list):  # json knows no tuples
        return tuple(value)
    return config_from_dict(value) if isinstance(value, dict) else value
