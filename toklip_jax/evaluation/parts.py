"""The rows of a set of images on disk, part by part, so that an evaluation can resume."""

import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from toklip_jax.core.errors import UserError

logger = logging.getLogger(__name__)
INDEX, SKIPPED = "index", "skipped"


class Encoded(NamedTuple):
    """The rows of a set of images.

    Attributes:
        rows: output -> array, one row a sample that could be read; `index` is its place in the
            source. Empty on hosts other than 0.
        skipped: cause -> number of samples that could not be read.
    """

    rows: dict[str, np.ndarray]
    skipped: dict[str, int]


class Parts:
    """The rows of one set on disk, a part for each batch, written by host 0."""

    def __init__(self, directory: str | pathlib.Path, key: Mapping[str, Any]):
        """Opens the parts made under the same `key`: data, models, outputs, batch size."""
        text = json.dumps(key, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.directory = pathlib.Path(directory) / name
        self._key, self._outputs = text, sorted(key["outputs"])
        self._is_given_up = False

    def read(self, limit: int) -> list[Encoded]:
        """Returns the parts from the first on, at most `limit`, up to one that is missing.

        A part that is damaged counts as missing, and a warning says so.
        """
        parts: list[Encoded] = []
        while len(parts) < limit and self._path(len(parts)).exists():
            path = self._path(len(parts))
            try:
                parts.append(_read(path, self._outputs, parts))
            except Exception as error:  # of damaged files, zipfile, zlib and numpy raise all kinds
                logger.warning("%s is damaged (%s): it is encoded again", path, error)
                break
        return parts

    def write(self, part: int, encoded: Encoded) -> None:
        """Writes a part, whole or not at all. Where that fails, it warns and keeps no more."""
        if self._is_given_up:
            return
        try:
            self._write(part, encoded)
        except OSError as error:
            self._is_given_up = True
            logger.warning(
                "encoded rows can't be kept in %s (%s): if interrupted, the evaluation starts over",
                self.directory,
                error.strerror,
            )

    def _write(self, part, encoded):
        self.directory.mkdir(parents=True, exist_ok=True)
        description = self.directory / "key.json"
        if not description.exists():
            description.write_text(self._key + "\n")  # for people
        temporary = self.directory / f".{part}.{os.getpid()}"
        try:
            with temporary.open("wb") as file:
                np.savez(file, **{SKIPPED: json.dumps(encoded.skipped)}, **encoded.rows)
            temporary.replace(self._path(part))
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, part):
        return self.directory / f"{part:06}.npz"


def _read(path: pathlib.Path, outputs: Sequence[str], before: Sequence[Encoded]) -> Encoded:
    """Reads a part; the checksums of the file's zip format are checked on the way.

    Raises:
        Exception: it is damaged, or does not continue the parts before.
    """
    with np.load(path) as file:
        rows = {name: file[name] for name in file.files}
    skipped = json.loads(str(rows.pop(SKIPPED)))
    if sorted(rows) != sorted([*outputs, INDEX]):
        raise UserError(f"expected {outputs}, got {sorted(rows)}")
    if len({len(array) for array in rows.values()}) > 1:
        raise UserError("its arrays differ in length")
    if before:
        last = before[-1].rows
        for name, array in rows.items():
            if (array.shape[1:], array.dtype) != (last[name].shape[1:], last[name].dtype):
                raise UserError(f"its {name} has another shape or type than in the part before")
        if len(last[INDEX]) and len(rows[INDEX]) and rows[INDEX][0] <= last[INDEX][-1]:
            raise UserError("its rows are not those that follow the part before")
    if not all(type(count) is int for count in skipped.values()):
        raise UserError("its counts are not numbers")
    return Encoded(rows, skipped)
