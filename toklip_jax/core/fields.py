"""Checks names and fields of configs; the error for a mistyped one suggests the nearest."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from toklip_jax.core.errors import Problems, UserError

T = TypeVar("T")

PLAIN = (bool, int, float, str, type(None))


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
    raise UserError(f"expected {what} among {names}, got {name!r}{hint}")


def add_new(table: dict[str, T], name: str, value: T, what: str) -> T:
    """Adds `value` to a registry under a name, and returns it; adding it again changes nothing.

    Args:
        what: kind of thing, for the message.

    Raises:
        ValueError: another value has the name.
    """
    if table.setdefault(name, value) is not value:
        raise UserError(f"expected a new name for {what}, got {name!r} twice")
    return value


def from_fields(cls: type[T], fields: Mapping[str, Any], where: str, **others: Any) -> T:
    """Returns `cls(**others, **fields)` of a dataclass; lists are taken where it has tuples.

    Args:
        where: the config's section, for the message.

    Raises:
        ValueError: fields that `cls` doesn't have, that are missing or of another type, a line for
            each; or what its constructor refuses.
    """
    values = read_fields(cls, fields, where, without=others)
    try:
        return cls(**others, **values)
    except UserError:
        raise
    except ValueError as error:  # of another package's class, which checks its fields
        raise UserError(str(error)) from error


def read_fields(
    cls: type, fields: Mapping[str, Any], where: str, *, without: Iterable[str] = ()
) -> dict[str, Any]:
    """Returns checked values for the fields of a dataclass; arguments and errors as `from_fields`.

    Args:
        without: fields that come from elsewhere.
    """
    check_section(fields, where)
    known = {field.name: field for field in dataclasses.fields(cls) if field.name not in without}
    hints, problems, values = type_hints(cls), Problems(), {}
    for name, value in fields.items():
        if problems.passes(lambda n=name: check_name(f"a field of {where}", n, known)):
            hint = hints.get(name, Any)
            values[name] = problems.attempt(
                lambda n=name, v=value, h=hint: check_type(v, h, f"{where}.{n}")
            )
    required = [name for name, field in known.items() if _is_required(field)]
    if missing := [name for name in required if name not in fields]:
        problems.lines.append(f"expected a field {missing[0]!r} in {where}, found {sorted(fields)}")
    problems.raise_lines()
    return values


def check_section(fields: Any, where: str) -> Mapping[str, Any]:
    """Returns a config's section.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(fields, Mapping):
        raise UserError(f"expected a section of fields for {where}, got {fields!r}")
    return fields


def check_names(names: Any, where: str) -> tuple[str, ...]:
    """Returns a config's list of names as a tuple.

    Raises:
        ValueError: it is no list of names, or has one twice.
    """
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
        hint = f": write ({names!r},)" if isinstance(names, str) and names else ""
        raise UserError(f"expected a list of names for {where}, got {names!r}{hint}")
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise UserError(f"expected each name once in {where}, got {twice[0]!r} twice")
    return tuple(names)


def read_options(text: str, defaults: Mapping[str, str]) -> dict[str, str]:
    """Returns the options after a config's colon, "name=value,name=value", over their defaults.

    Raises:
        ValueError: an option without a value, given twice, or of another name (names the nearest).
    """
    found: dict[str, str] = {}
    for option in filter(None, text.split(",")):
        name, equals, value = option.partition("=")
        check_name("an option after the config's colon", name, defaults)
        if not equals or name in found:
            raise UserError(f"expected {name}=VALUE once after the config's colon, got {text!r}")
        found[name] = value
    return {**defaults, **found}


def check_not_negative(section: Any, *names: str) -> None:
    """Checks that fields of a dataclass are finite numbers of at least 0.

    Raises:
        ValueError: one isn't.
    """
    for name in names:
        if not 0 <= getattr(section, name) < math.inf:  # NaN fails too
            raise UserError(f"expected a finite {name} of at least 0, got {getattr(section, name)}")


def type_hints(annotated: Callable[..., Any]) -> dict[str, Any]:
    """Returns the types of a dataclass's fields, or of a function's parameters, where known."""
    if isinstance(annotated, type) and not dataclasses.is_dataclass(annotated):
        annotated = annotated.__init__
    try:
        return typing.get_type_hints(annotated)
    except (NameError, TypeError):  # of another package, with names for type checkers only
        return {}


def check_type(value: Any, hint: Any, where: str) -> Any:
    """Returns `value`, a list as a tuple if the hint is one.

    Plain types, tuples, sequences and mappings of them, and dataclasses are checked; other types
    pass.

    Raises:
        ValueError: another type.
    """
    options = _options(hint)
    if not any(_fits(value, option) for option in options):
        names = " or ".join(_type_name(option) for option in options)
        raise UserError(f"expected {names} for {where}, got {value!r}")
    is_tuple = any((typing.get_origin(option) or option) is tuple for option in options)
    return tuple(value) if is_tuple and isinstance(value, list) else value


def _is_required(field):
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def _options(hint):
    """The types of a union, or the one type."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _fits(value, hint) -> bool:
    """Says whether a value is of a type, as far as the type is one that is checked."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in PLAIN:
        return _is_a(value, origin)
    if origin in (tuple, Sequence):
        return isinstance(value, list | tuple) and _items_fit(value, origin, arguments)
    if origin in (Mapping, dict):
        items = arguments[1] if arguments else Any
        return isinstance(value, Mapping) and all(_fits_any(v, items) for v in value.values())
    if dataclasses.is_dataclass(origin):
        return isinstance(value, origin)
    return True


def _items_fit(values, origin, arguments):
    if not arguments:
        return True
    if origin is tuple and arguments[1:] != (...,):
        fitting = len(values) == len(arguments)
        return fitting and all(map(_fits_any, values, arguments))
    return all(_fits_any(value, arguments[0]) for value in values)


def _fits_any(value, hint):
    return any(_fits(value, option) for option in _options(hint))


def _is_a(value, kind):
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _type_name(hint):
    """A type as it is named in messages, such as "int" or "tuple of str"."""
    if hint is type(None):
        return "none"
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    name = {Sequence: "list", Mapping: "section", dict: "section"}.get(origin)
    name = name or getattr(origin, "__name__", str(origin))
    if origin in (tuple, Sequence) and arguments and arguments[0] in PLAIN:
        return f"{name} of {arguments[0].__name__}"
    return name
