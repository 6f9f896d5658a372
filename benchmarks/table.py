"""Results as a table: the terminal's, and the one in docs/performance.md."""

from collections.abc import Iterator
from typing import Any

OF_THE_RUN = ("part_seconds", "load_before", "machine")  # of a part, and no figures of it
HEADER = ("measured", "ours", "peer", "ratio", "bar", "met")


def text(results: dict[str, Any]) -> str:
    """Returns the table in Markdown, and below it what could not run."""
    lines = [f"| {' | '.join(HEADER)} |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for name, part in results.items():
        for what, *cells in rows(part):
            lines.append(f"| {' | '.join((f'{name}: {what}', *cells))} |")
    found = failures(results)
    return "\n".join(
        lines + ([""] if found else []) + [f"- not measured: {line}" for line in found]
    )


def rows(part: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields a part's rows; a part without `rows` gives one for each of its numbers."""
    if "rows" not in part:
        for name, value in numbers(part):
            yield name, number(value), "", "", "", ""
        return
    for row in part["rows"]:
        bar, is_met = row.get("bar"), row.get("is_met")
        end = "" if bar is None else number(bar), {None: "", True: "yes", False: "NO"}[is_met]
        if "ratio" in row:
            what = f"{row['what']}, against {row['peer']}"
            times = [seconds(row[name]) for name in ("ours_seconds", "peer_seconds")]
            yield what, *times, f"{row['ratio']:.2f}", *end
        else:
            yield row["what"], f"{number(row['value'])} {row.get('unit', '')}".strip(), "", "", *end


def numbers(part: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields each number of a part and its name, inner ones under those they are in."""
    for name, value in part.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict) and name not in OF_THE_RUN:
            yield from numbers(value, f"{label}, ")
        elif isinstance(value, int | float) and name not in OF_THE_RUN:
            yield label, value


def failures(results: dict[str, Any]) -> list[str]:
    """Returns what could not run, and why: parts, and contenders within them."""
    found = []
    for name, part in results.items():
        if "failed" in part:
            found.append(f"{name}: {part['failed']}")
        for inner in (part, *part.get("settings", ())):
            found += [f"{name}, {kind}: {why}" for kind, why in inner.get("problems", {}).items()]
    return [line.replace("\n", " ") for line in found]


def seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def number(value: float) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}"
