"""Names and fields from configs, checked: a mistyped one is told its nearest neighbour."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def check_name(what: str, name: Any, names: Iterable[str]) -> str:
    """Returns `name`.

    Raises:
        ValueError: it is not among `names`; says which there are, and the nearest.
    """
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, 1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"expected {what} among {names}, got {name!r}{hint}")


def from_fields(cls: type[T], fields: Mapping[str, Any], where: str, **others: Any) -> T:
    """Returns `cls(**others, **fields)` of a dataclass.

    Args:
        where: the config's section, for the message.

    Raises:
        ValueError: a field that `cls` doesn't have, or what its constructor refuses.
    """
    names = [field.name for field in dataclasses.fields(cls) if field.name not in others]
    for name in fields:
        check_name(f"a field of {where}", name, names)
    return cls(**others, **fields)
