"""Checks names and fields of configs; the error for a mistyped one suggests the nearest."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def check_name(what: str, name: Any, names: Iterable[str]) -> str:
    """Checks that `name` is one of `names`, and returns it.

    Raises:
        ValueError: it is not; lists them, and suggests the nearest.
    """
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, 1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"expected {what} among {names}, got {name!r}{hint}")


def add_new(table: dict[str, T], name: str, value: T, what: str) -> T:
    """Adds `value` to a registry under a name, and returns it; adding it again changes nothing.

    Args:
        what: kind of thing, for the message.

    Raises:
        ValueError: another value has the name.
    """
    if table.setdefault(name, value) is not value:
        raise ValueError(f"expected a new name for {what}, got {name!r} twice")
    return value


def from_fields(cls: type[T], fields: Mapping[str, Any], where: str, **others: Any) -> T:
    """Returns `cls(**others, **fields)` of a dataclass; lists are taken where it has tuples.

    Args:
        where: the config's section, for the message.

    Raises:
        ValueError: a field that `cls` doesn't have, one that is missing or of another type, or what
            its constructor refuses.
    """
    known = {field.name: field for field in dataclasses.fields(cls) if field.name not in others}
    for name in fields:
        check_name(f"a field of {where}", name, known)
    required = [name for name, field in known.items() if _is_required(field)]
    if missing := [name for name in required if name not in fields]:
        raise ValueError(f"expected a field {missing[0]!r} in {where}, found {sorted(fields)}")
    hints = typing.get_type_hints(cls)
    values = {
        name: _typed(value, hints.get(name, Any), f"{where}.{name}")
        for name, value in fields.items()
    }
    return cls(**others, **values)


def _is_required(field):
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def _typed(value, hint, where):
    """Returns `value`, a list as a tuple if the hint is one; refuses another plain type."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    origins = [typing.get_origin(option) or option for option in options]
    if tuple in origins and isinstance(value, list | tuple):
        return tuple(value)
    plain = [origin for origin in origins if origin in (bool, int, float, str, tuple, type(None))]
    if len(plain) == len(origins) and not any(_is_a(value, origin) for origin in plain):
        names = " or ".join("none" if o is type(None) else o.__name__ for o in plain)
        raise ValueError(f"expected {names} for {where}, got {value!r}")
    return value


def _is_union(hint):
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_a(value, kind):
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
