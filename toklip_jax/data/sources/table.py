"""Images named by a CSV or Parquet file, with captions and labels."""

import os
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample, Problem
from toklip_jax.data.paths import (
    base_name,
    expand_home,
    expect_unchanged,
    file_state,
    is_local,
    join,
)
from toklip_jax.data.sources.base import ENCODED, SourceKind
from toklip_jax.data.sources.records import read_image_bytes
from toklip_jax.data.sources.table_files import (
    check_quotes,
    check_types,
    hash_of_file,
    read_csv,
    read_parquet,
)


class TableSource:
    """Records from a CSV or Parquet file: `image` (bytes), `text` and `label` where named.

    Attributes:
        problems: rows of a CSV that are left out.
        has_labels: whether a column of labels is named.
    """

    def __init__(
        self,
        path: str,
        image: str = "image",
        text: str | None = "text",
        label: str | None = None,
        root: str | None = None,
        delimiter: str = ",",
        quotes: bool | None = None,
    ):
        """Reads the table.

        Args:
            path: ends in .parquet, or is a CSV whose first line names the columns.
            image: column of paths, or, in Parquet, of encoded images, also as Hugging Face's
                {bytes, path}; each process holds the columns in memory, so the latter is for small
                tables.
            text: column of captions; None for none.
            label: column of integers; None for none.
            root: directory that paths are relative to; None for the table's.
            delimiter: the separator of a CSV's columns.
            quotes: whether quotes enclose a CSV's values, so that these may hold delimiters and
                line breaks; None for yes, unless tabs separate the columns.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a column that isn't there (names the nearest) or is of another type, quotes
                that enclose no whole values, or no row.
        """
        self.path, self.delimiter = expand_home(path), delimiter
        self.root = os.path.dirname(self.path) if root is None else expand_home(root)
        columns = {"image": image, "text": text, "label": label}
        self.columns = {field: name for field, name in columns.items() if name is not None}
        self.has_labels = label is not None
        self._is_parquet = self.path.endswith((".parquet", ".pq"))
        self._encloses = not self._is_parquet and check_quotes(self.path, delimiter, quotes)
        self._table, self.problems = self._read()
        self._state, self._length = file_state(self.path), self._table.num_rows
        if self._length == 0:
            raise UserError(f"expected rows in {path}, found none: check the file")
        check_types(self._table, self.columns, path)

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}  # each process reads the file itself

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record; text is bytes from a CSV, which need not be UTF-8.

        Raises:
            BadSample: no image, or one that can't be read.
        """
        rows = self._rows()
        record = {field: rows.column(name)[index].as_py() for field, name in self.columns.items()}
        record["image"] = self._image(record["image"])
        return record

    def key(self, index: int) -> str:
        """Returns the table's name and the row, from 0."""
        return f"{base_name(self.path)}:{index}"

    def identity(self) -> str:
        """Returns a hash of the file: its rows may be shuffled without a change of size."""
        return hash_of_file(self.path)

    def _rows(self):
        if self._table is None:
            self._table, _ = self._read()
            expect_unchanged(self.path, self._state)
        return self._table

    def _read(self) -> tuple[Any, list[Problem]]:
        columns = list(self.columns.values())
        if self._is_parquet:
            return read_parquet(self.path, columns), []
        return read_csv(self.path, columns, self.delimiter, self._encloses)

    def _image(self, value):
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            raise BadSample("missing image")
        if isinstance(value, bytes) and self._is_parquet:
            return value
        path = os.path.expanduser(os.fsdecode(value))
        is_whole = os.path.isabs(path) or not is_local(path)
        return read_image_bytes(path if is_whole else join(self.root, path))


TABLE = SourceKind("table", TableSource, ENCODED)
