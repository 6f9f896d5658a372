"""The numbers that say most about a run, each beside those of the other models."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from toklip_jax.evaluation.tables import figure_label
from toklip_jax.report.cells import cell_text, cell_value
from toklip_jax.report.files import Run
from toklip_jax.report.markup import Markup, tag

NUM_SHOWN = 3
MAX_ROWS = 5  # models of one number


class Number(NamedTuple):
    """A number that may head the page.

    Attributes:
        figures: names of figures; the first that the models have is taken.
        models: the rows that it may be of; the first that there is is taken.
        meaning: what it tells.
    """

    figures: tuple[str, ...]
    models: tuple[str, ...]
    meaning: str


# By importance: the first that a run has are shown.
NUMBERS = (
    Number(("image_to_text_r1",), ("TokLIP", "teacher"), "of images find their own text first"),
    Number(("top1",), ("TokLIP", "teacher"), "of images get the right class, zero-shot"),
    Number(("psnr",), ("VQ",), "dB between images and their reconstructions"),
    Number(("rfid",), ("VQ",), "rFID of reconstructions; lower is better"),
    Number(
        figures=("knn", "linear_probe"),
        models=("TokLIP, pooled",),
        meaning="right class, by features of the ids alone",
    ),
    Number(("group_top1",), ("TokLIP", "teacher"), "of images get the right group, zero-shot"),
    Number(("fid",), (), "FID of generated images; lower is better"),
)


def headline(run: Run) -> list[Markup]:
    """Returns the run's most important numbers as cards; nothing where it wasn't evaluated."""
    cards = [card for wanted in NUMBERS if (card := _card(run, wanted))][:NUM_SHOWN]
    return [tag("ul", cards, class_="numbers")] if cards else []


def _card(run, wanted: Number) -> Markup | None:
    """The first evaluation that has such a number, as a card with a bar for each model."""
    for name, result in run.evaluations.items():
        rows = result.get("rows", ())
        for figure in wanted.figures:
            counted = [row for row in rows if cell_value(row.get(figure)) is not None]
            if (chosen := _chosen(counted, wanted.models)) is not None:
                return _drawn(name, figure, wanted.meaning, counted, chosen)
    return None


def _chosen(rows, models: Sequence[str]) -> dict[str, Any] | None:
    by_name = {str(row.get("model")): row for row in rows}
    if not models:
        return rows[0] if rows else None
    return next((by_name[model] for model in models if model in by_name), None)


def _drawn(evaluation, figure, meaning, rows, chosen):
    value, _, error = cell_text(chosen[figure]).partition(" ± ")
    shown = [chosen, *(row for row in rows if row is not chosen)][:MAX_ROWS]
    shown.sort(key=rows.index)
    largest = max(abs(cell_value(row[figure])) for row in shown) or 1.0
    bars = [_bar(row, figure, largest, is_chosen=row is chosen) for row in shown]
    label = f"{evaluation.replace('_', ' ')}: {figure_label(figure)}"
    number = tag("p", tag("strong", value), tag("small", f" ± {error}") if error else None)
    return tag("li", tag("small", label), number, tag("p", meaning), tag("ul", bars))


def _bar(row, figure, largest, *, is_chosen):
    share = 100 * max(cell_value(row[figure]), 0) / largest
    bar = tag("span", tag("i", style=f"width:{share:.1f}%"), class_="bar")
    value = cell_text(row[figure]).partition(" ± ")[0]
    name = str(row.get("model", ""))
    return tag("li", tag("span", name), bar, tag("b", value), class_="own" if is_chosen else None)
