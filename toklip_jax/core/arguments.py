"""The arguments of a command line, before a parser sees them."""

import re
from collections.abc import Collection, Sequence

from toklip_jax.core.errors import UserError

FLAG = re.compile(r"--?([A-Za-z][^=]*)(=?)(.*)", re.DOTALL)
MAX_SHOWN = 60  # letters of a value


def expect_given_once(argv: Sequence[str], repeatable: Collection[str] = ()) -> None:
    """Checks that no flag is given twice with different values: parsers keep the last in silence.

    Args:
        argv: without the program's name.
        repeatable: names of flags that collect their values.

    Raises:
        ValueError: one is; names it and both values.
    """
    given: dict[str, str] = {}
    for name, value in _flags(argv):
        if name not in repeatable and given.setdefault(name, value) != value:
            first, second = (text[:MAX_SHOWN] for text in (given[name], value))
            flag = f"--{name if '.' in name else name.replace('_', '-')}"
            raise UserError(
                f"expected {flag} once, got it with {first!r} and with {second!r}: leave one out "
                f"(quote a pattern with braces, of which the shell otherwise makes several flags, "
                f"and write a list as one value, \"('a', 'b')\")"
            )


def _flags(argv):
    """Yields names and values of flags; `--no_x` and `--nox` are x, with the value "false"."""
    for place, argument in enumerate(argv):
        if argument == "--":
            return
        if (found := FLAG.fullmatch(argument)) is None:
            continue
        name, has_value, value = found[1].replace("-", "_"), found[2], found[3]
        following = argv[place + 1] if place + 1 < len(argv) else ""
        if has_value:
            yield name, value
        elif following and not FLAG.fullmatch(following):
            yield name, following
        elif name.startswith("no"):
            yield name.removeprefix("no"), "false"
        else:
            yield name, "true"
