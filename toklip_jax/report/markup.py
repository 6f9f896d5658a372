"""HTML from small pieces; what isn't marked as HTML is escaped."""

import html
import re
from collections.abc import Iterable
from typing import Any

VOID = frozenset({"br", "img", "input", "meta"})
# What no page may hold: control characters but white space, and halves of characters.
UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | Iterable[Any] | None  # of the same kind, at any depth


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """Returns an element.

    Args:
        children: text, which is escaped, other elements, or lists of both; None is nothing.
        attributes: `class_` is written as class, `data_size` as data-size; True is an attribute
            without a value; None and False leave it out.
    """
    start = f"<{name}{''.join(_attribute(k, v) for k, v in attributes.items())}>"
    return Markup(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Returns the children one after another, text among them escaped."""
    return Markup("".join(map(_render, children)))


def plain(text: str) -> str:
    """Returns text with a mark in place of what no page may hold."""
    return UNFIT.sub("\N{REPLACEMENT CHARACTER}", text)


def _render(child):
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    return html.escape(plain(child), quote=False) if isinstance(child, str) else join(child)


def _attribute(name, value):
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(plain(str(value)))}"'
