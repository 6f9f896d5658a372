"""The frame of the page: one file, which asks the network for nothing."""

import base64
import hashlib
import importlib.resources
import json
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from toklip_jax.report.markup import Child, Markup, join, tag


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        slug: its anchor.
        title: its heading.
        lead: an introduction of a sentence or two.
        body: the rest; empty where `lead` says why there is nothing.
    """

    slug: str
    title: str
    lead: Child
    body: Child = ()


def render_page(title: str, header: Child, sections: Sequence[Section], data: Any) -> str:
    """Returns the page.

    Args:
        data: JSON data for its script; None for a page without.
    """
    parts = [_section(number, section) for number, section in enumerate(sections, start=1)]
    template, script = string.Template(asset("page.html")), asset("page.js")
    return template.substitute(
        title=join([title]),
        style=asset("page.css"),
        header=join([header]),
        contents=_contents(sections),
        main=join(parts),
        data=_json(data),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def asset(name: str) -> str:
    """Returns the text of a file in `assets`."""
    return (importlib.resources.files("toklip_jax.report") / "assets" / name).read_text("utf-8")


def scroll_box(content: Child, label: str) -> Markup:
    """Returns `content` in a box of its own, which scrolls where the page is narrow."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)


def table(head: Sequence[Child], rows: Sequence[Sequence[Child]], caption: str) -> Markup:
    """Returns a table in a scroll box; the first cell of a row is its heading."""
    first, *rest = head
    top = tag("tr", tag("th", first, scope="col"), [tag("th", c, scope="col") for c in rest])
    body = [
        tag("tr", tag("th", cells[0], scope="row"), [tag("td", cell) for cell in cells[1:]])
        for cells in rows
    ]
    content = tag("table", tag("caption", caption), tag("thead", top), tag("tbody", body))
    return scroll_box(content, caption)


def _section(number, section):
    heading = tag("h2", tag("span", f"{number}", class_="number"), section.title)
    is_there = bool(section.body)
    lead = tag("p", section.lead, class_="lead" if is_there else "lead absent")
    return tag("section", heading, lead, section.body, id=section.slug)


def _contents(sections):
    links = [tag("li", tag("a", s.title, href=f"#{s.slug}")) for s in sections]
    return tag("nav", tag("ol", links), aria_label="Contents")


def _json(data):
    # Within a script element, "</" would end it.
    return json.dumps(data).replace("<", "\\u003c")
