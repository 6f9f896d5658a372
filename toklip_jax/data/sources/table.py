"""Images named by a CSV or Parquet file, with captions and labels."""

import os
from typing import Any

from toklip_jax.core.fields import check_name
from toklip_jax.data.health import BadSample
from toklip_jax.data.paths import base_name, file_system, is_local
from toklip_jax.data.sources.base import ENCODED, SourceKind
from toklip_jax.data.sources.records import label_of, read_image_bytes


class TableSource:
    """Records from a CSV or Parquet file: `image` (bytes), `text` and `label` where named."""

    def __init__(
        self,
        path: str,
        image: str = "image",
        text: str | None = "text",
        label: str | None = None,
        root: str | None = None,
        delimiter: str = ",",
    ):
        """Reads the table.

        Args:
            path: ends in .parquet, or is a CSV whose first line names the columns.
            image: column of paths, or, in Parquet, of encoded images; each process holds the
                columns in memory, so the latter is for small tables.
            text: column of captions; None for none.
            label: column of integers; None for none.
            root: directory that paths are relative to; None for the table's.
            delimiter: the separator of a CSV's columns.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a column that isn't there (names the nearest), or no row.
        """
        self.path, self.delimiter = path, delimiter
        self.root = path.rpartition("/")[0] if root is None else root.rstrip("/")
        self.columns = {"image": image, "text": text, "label": label}
        self.columns = {field: name for field, name in self.columns.items() if name is not None}
        self._table = None
        self._length = self._rows().num_rows
        if self._length == 0:
            raise ValueError(f"expected rows in {path}, found none: check the file")

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}  # each process reads the file itself

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record; text is bytes from a CSV, which need not be UTF-8.

        Raises:
            BadSample: no image, or a label that is no number.
        """
        rows = self._rows()
        record = {field: rows.column(name)[index].as_py() for field, name in self.columns.items()}
        record["image"] = self._image(record["image"])
        if "label" in record:
            record["label"] = label_of(record["label"])
        return record

    def key(self, index: int) -> str:
        """Returns the table's name and the row, from 0."""
        return f"{base_name(self.path)}:{index}"

    def _rows(self):
        if self._table is None:
            is_parquet = self.path.endswith((".parquet", ".pq"))
            columns = list(self.columns.values())
            if is_parquet:
                self._table = _read_parquet(self.path, columns)
            else:
                self._table = _read_csv(self.path, columns, self.delimiter)
        return self._table

    def _image(self, value):
        if not value:
            raise BadSample("missing image")
        if isinstance(value, bytes) and self.path.endswith((".parquet", ".pq")):
            return value
        path = os.fsdecode(value)
        is_whole = os.path.isabs(path) or not is_local(path) or not self.root
        return read_image_bytes(path if is_whole else f"{self.root}/{path}")


TABLE = SourceKind("table", TableSource, ENCODED)


def _read_parquet(path, columns):
    import pyarrow
    import pyarrow.parquet

    with _open(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"expected a Parquet file, got {path}: {error}") from error
        for column in columns:
            check_name(f"a column of {path}", column, table.schema_arrow.names)
        return table.read(columns)


def _read_csv(path, columns, delimiter):
    import pyarrow
    import pyarrow.csv

    with _open(path) as file:
        head = file.readline().decode("utf-8-sig", "replace").rstrip("\r\n")
    names = [name.strip('"') for name in head.split(delimiter)]
    for column in columns:
        check_name(f"a column of {path}", column, names)
    # Bytes: a caption of digits stays text, and one that isn't UTF-8 spoils its own row only.
    types = dict.fromkeys(columns, pyarrow.binary())
    convert = pyarrow.csv.ConvertOptions(column_types=types, include_columns=columns)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        with _open(path) as file:
            return pyarrow.csv.read_csv(file, parse_options=parse, convert_options=convert)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"expected a CSV of {len(names)} columns, got {path}: {error}") from error


def _open(path) -> Any:
    try:
        system, name = file_system(path)
        return system.open(name, "rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"expected a table, found no file {path}: check the path") from None
