"""Model configs as plain json data, for saving beside weights."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_section, from_fields
from toklip_jax.models.registry import registered


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns the fields of a model's config, nested configs included, each with its `kind`."""
    names = {cls: name for name, cls in config_kinds().items()}
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    plain = {
        name: config_to_dict(value) if dataclasses.is_dataclass(value) else value
        for name, value in fields.items()
    }
    return {"kind": names[type(config)], **plain}


def config_from_dict(data: Mapping[str, Any], where: str = "a model's config") -> Any:
    """Returns the config that `config_to_dict` described.

    Args:
        where: the data's place, for messages.

    Raises:
        ValueError: an unknown kind or field, or a value of another type: a mistake, data of another
            version, or of a package that is not imported.
    """
    kinds = config_kinds()
    kind = check_section(data, where).get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"expected a config of kind {sorted(kinds)} for {where}, got {kind!r}")
    fields = {
        name: config_from_dict(value, f"{where}.{name}") if isinstance(value, Mapping) else value
        for name, value in data.items()
        if name != "kind"
    }
    return from_fields(kinds[kind], fields, where)


def complete(tree: Any) -> Any:
    """Returns json data with every model config in it completed by the fields it left out.

    So that a config of an earlier version, which had fewer fields, equals the same one of today.
    """
    if isinstance(tree, list):
        return [complete(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if isinstance(tree.get("kind"), str) and tree["kind"] in config_kinds():
        try:
            return json.loads(json.dumps(config_to_dict(config_from_dict(tree))))
        except (ValueError, TypeError):
            return tree  # of a later version, or damaged: compared as it is
    return {name: complete(value) for name, value in tree.items()}


def config_kinds():
    """The types of configs, and of configs within them, by their `kind`."""
    kinds = {}
    for family in registered():
        kinds |= {family.name: family.config, **family.parts}
    return kinds
