"""What comparing a folder's images with texts needs: their features, and lines of a table."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from toklip_jax.cli.folder import reading
from toklip_jax.core.printable import escaped
from toklip_jax.run.folder import FEATURES, NPZ, expect_same, map_folder, read_rows
from toklip_jax.weights.fingerprints import fingerprint_params


def features_of(values: argparse.Namespace, model: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns names and features of a folder's images, or of a file that `toklip embed` wrote.

    Raises:
        ValueError: a folder without images, or features of other weights.
    """
    path = values.folder
    if path.suffix == NPZ and path.is_file():
        rows = read_rows(path, FEATURES)
        expect_same(rows, {"sha256": fingerprint_params(model.params)}, path)
        return rows.names, rows.values
    return map_folder(values.folder, model.image_features, title="embed", **reading(values, model))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows with tabs between their cells, on a terminal in columns; each on one line."""
    rows = [[escaped(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in rows))
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
