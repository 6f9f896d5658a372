"""Lines for people: durations in words, and lines of parts that fit a terminal."""

from collections.abc import Sequence

MAX_COLUMNS = 100  # of a line in a terminal
SEPARATOR, INDENT = " | ", "  "
MINUTE, HOUR, DAY = 60, 3600, 86400
DAYS_FROM = 2 * DAY  # durations from here on are in days and hours


def in_words(seconds: float | int) -> str:
    """Returns a duration that can't be misread: `40 s`, `4 min`, `1 h 20 min`, `3 days 4 h`."""
    if round(seconds) < MINUTE:
        return f"{max(round(seconds), 0)} s"
    minutes = round(seconds / MINUTE)
    if minutes < HOUR // MINUTE:
        return f"{minutes} min"
    if seconds < DAYS_FROM:
        return _two(minutes, HOUR // MINUTE, "h", "min")
    return _two(round(seconds / HOUR), DAY // HOUR, "days", "h")


def joined(parts: Sequence[str], columns: int | None = None) -> str:
    """Returns parts with bars between them: in one line, or in several of at most `columns`."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]}{SEPARATOR}{part}" if lines else part
        if not lines or (columns is not None and len(longer) > columns):
            lines.append(f"{INDENT}{part}" if lines else part)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _two(number, size, large, small):
    whole, rest = divmod(number, size)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
