"""The one place that formats result tables."""

import math
import re
from collections.abc import Mapping, Sequence

from toklip_jax.metrics import Estimate

Cell = Estimate | float | int | str | None
NOTHING = "-"
LABELS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "rfid": "rFID",
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "IS",
    "code_usage": "codes used",
    "perplexity": "perplexity",
    "knn": "kNN",
}
PHRASES = (("image_to_text", "image→text"), ("text_to_image", "text→image"))


def figure_label(name: str) -> str:
    """Returns a figure's name for people: "image_to_text_r1" is "image→text R@1"."""
    if name in LABELS:
        return LABELS[name]
    for phrase, arrow in PHRASES:
        name = name.replace(phrase, arrow)
    name = re.sub(r"\br(\d+)$", r"R@\1", name.replace("_", " "))
    name = re.sub(r"\btop(\d+)$", r"top-\1", name)
    return re.sub(r"\bfirst (\d+)\b", r"first \1 %", name)


def results_table(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str] | None = None) -> str:
    """Returns a Markdown table, its columns aligned so that it also reads well as plain text.

    Estimates are printed with their standard errors; a missing cell or a NaN is a dash. Figures get
    their names for people.

    Args:
        rows: column name to cell.
        columns: which, in order; by default all that occur, in order of appearance.
    """
    columns = list(columns or dict.fromkeys(name for row in rows for name in row))
    heads = [figure_label(name) for name in columns]
    body = [[format_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(heads, *body, strict=True)]
    # Words are set to the left, figures to the right.
    is_text = [any(isinstance(row.get(name), str) for row in rows) for name in columns]

    def line(cells):
        padded = [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(cells, widths, is_text, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rules = [
        "-" * width if left else "-" * (width - 1) + ":"
        for width, left in zip(widths, is_text, strict=True)
    ]
    return "\n".join([line(heads), line(rules), *map(line, body)]) + "\n"


def format_cell(cell: Cell) -> str:
    """Returns "0.412 ± 0.012", "22.41", "1024", text as it is, or a dash."""
    if cell is None:
        return NOTHING
    if isinstance(cell, str | int):
        return str(cell)
    value, error = cell if isinstance(cell, Estimate) else (cell, math.nan)
    if math.isnan(value):
        return NOTHING
    digits = 2 if abs(value) >= 10 else 3  # decibels, or shares of one
    text = f"{value:.{digits}f}"
    return text if math.isnan(error) else f"{text} ± {error:.{digits}f}"
