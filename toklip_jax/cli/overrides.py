"""Overrides of a config, `--config.a.b=value`, where the config has no such field yet.

ml_collections sets fields that are there. A section whose `kind` is changed has other fields than
the file's, and one that the file leaves out has none. Their flags become one, for the whole
section: `--config.source.kind=table --config.source.path=a.csv` is read as
`--config.source={'kind': 'table', 'path': 'a.csv'}`.
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from toklip_jax.core.errors import UserError

PREFIX = "--config."
PREFIXES = (PREFIX, PREFIX[1:])  # with one hyphen too
KIND = "kind"  # the field that says which other fields its section has


def with_whole_sections(argv: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Returns the arguments with one flag for each section that the config doesn't have as such.

    Args:
        argv: overrides among them, as `--config.PATH=VALUE` or in two; others stay as they are.
        config: the config as the file has it.

    Raises:
        ValueError: a field of what is no section, or a section given after its fields.
    """
    argv = _joined(argv, config)
    overrides = dict(found for argument in argv if (found := _override(argument)))
    sections: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    whole: list[str] = []
    for argument in argv:
        path, text = _override(argument) or ("", "")
        section = _new_section(path, overrides, config) if path else None
        if section is None:
            whole.append(argument)
            continue
        if section not in places:
            places[section] = len(whole)
            whole.append("")
        if path == section:
            sections[section] = _whole_section(path, text, sections)
        else:
            _set(sections.setdefault(section, {}), path.removeprefix(f"{section}."), text)
    for section, place in places.items():
        whole[place] = f"{PREFIX}{section}={sections[section]!r}"
    return whole


def _joined(argv, config) -> list[str]:
    """The arguments, with `--config.PATH VALUE` as one, unless the field is a switch."""
    joined: list[str] = []
    for argument in argv:
        path = joined[-1].lstrip("-").removeprefix("config.") if joined else ""
        is_bare = bool(joined) and joined[-1].startswith(PREFIXES) and "=" not in joined[-1]
        is_switch = isinstance(_find(config, path.split(".")), bool)
        if is_bare and not is_switch and not argument.startswith("-"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _override(argument) -> tuple[str, str] | None:
    """The path and the text of an override, or None."""
    if not argument.startswith(PREFIXES) or "=" not in argument:
        return None
    path, text = argument.lstrip("-").removeprefix("config.").split("=", 1)
    return path, text


def _new_section(path, overrides, config) -> str | None:
    """The outermost section that an override belongs to and that is to be given whole, or None."""
    names = path.split(".")
    for depth in range(1, len(names)):
        section = ".".join(names[:depth])
        kind = overrides.get(f"{section}.{KIND}")
        fields = _find(config, names[:depth])
        if section in overrides or fields is None:
            return section
        if not isinstance(fields, Mapping):
            raise UserError(
                f"expected a section at {PREFIX}{section} to set {names[depth]} in, got "
                f"{fields!r}: set {PREFIX}{section} as a whole"
            )
        if kind is not None and KIND in fields and kind != fields[KIND]:
            return section
    is_parent = any(other.startswith(f"{path}.") for other in overrides)
    return path if is_parent else None


def _whole_section(path, text, sections) -> dict[str, Any]:
    if path in sections:
        raise UserError(
            f"expected {PREFIX}{path} before the fields in it, which it replaces, got it after "
            f"them: swap them, or leave one out"
        )
    section = _value(text)
    if not isinstance(section, dict):
        raise UserError(f"expected a section for {PREFIX}{path}, as {{...}}, got {text!r}")
    return section


def _find(config, names):
    for name in names:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _set(section, path, text):
    *outer, name = path.split(".")
    for part in outer:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise UserError(f"expected a section at {part} in {PREFIX}...{path}, got {section!r}")
    section[name] = _value(text)


def _value(text: str) -> Any:
    """A literal, or else the text itself."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
