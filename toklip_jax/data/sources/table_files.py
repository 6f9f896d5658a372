"""Columns of CSV and Parquet files as Arrow tables; no row is lost without being named.

Whether quotes enclose a CSV's values is told by `quotes`. Its default is what such files usually
are: yes where commas separate the columns, no where tabs do, as in CC3M and CC12M.
"""

import csv
import hashlib
import io
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.health import BadSample, Problem
from toklip_jax.data.labels import label_of
from toklip_jax.data.paths import base_name, file_system

logger = logging.getLogger(__name__)

RAGGED = "a row of another number of columns"
_LARGE_BLOCK = 2**30  # bytes parsed at once where a value is longer than Arrow's usual block
_LONGEST_VALUE = 2**31 - 1
_LINES_TRIED = 1000


def read_parquet(path: str, columns: Sequence[str]) -> Any:
    """Returns some columns as an Arrow table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column that isn't there (names the nearest) or is there twice; no Parquet.
    """
    import pyarrow
    import pyarrow.parquet

    with _open(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            for column in columns:
                _check_column(column, table.schema_arrow.names, path)
            return table.read(columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"expected a Parquet file, got {path}: {_line(error)}") from error


def read_csv(
    path: str, columns: Sequence[str], delimiter: str, encloses: bool
) -> tuple[Any, list[Problem]]:
    """Returns some columns as an Arrow table of bytes, and the rows that are left out of it.

    Args:
        encloses: whether a value that begins with a quote ends with the next one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column that isn't there (names the nearest) or is there twice; no CSV.
    """
    import pyarrow

    names = _names(path, delimiter, encloses)
    for column in columns:
        _check_column(column, names, path)
    try:
        return _parse(path, columns, delimiter, encloses)
    except pyarrow.ArrowInvalid as error:
        raise UserError(
            f"expected a CSV of {len(names)} columns, got {path}: {_line(error)}"
        ) from error


def check_quotes(path: str, delimiter: str, quotes: bool | None) -> bool:
    """Returns whether quotes enclose the values of a CSV: `quotes`, or its default.

    Where the default is taken and the file looks as if it were wrong, a warning says what to do.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: quotes that don't enclose whole values, so that rows would be joined; or a
            delimiter of several characters.
    """
    if len(delimiter) != 1:
        raise UserError(f"expected a delimiter of one character, got {delimiter!r}")
    encloses = delimiter != "\t" if quotes is None else quotes
    if encloses:
        lines = _lines_within_quotes(path, delimiter)
        if lines and quotes is None:
            logger.warning(
                "%d lines of %s are within quotes and belong to the row before: if its quotes are "
                "part of the texts, set quotes=False, else quotes=True",
                lines, path,
            )  # fmt: skip
    elif quotes is None and (number := _enclosed_values(path, delimiter)):
        logger.warning(
            "%d of the first values of %s stand in quotes, which are taken as part of them: if "
            "quotes enclose its values, set quotes=True, else quotes=False",
            number, path,
        )  # fmt: skip
    return encloses


def check_types(table: Any, columns: Mapping[str, str], path: str) -> None:
    """Checks the types of the columns named for `image`, `text` and `label`, and the first labels.

    Raises:
        ValueError: a type that no row can be read from, or labels that are no numbers.
    """
    for field, name in columns.items():
        found = _inner(table.schema.field(name).type)
        if not _IS_FIT[field](found):
            raise UserError(
                f"expected {_EXPECTED[field]} in the column {name!r} of {path}, got {found}: name "
                f"another column, or convert it"
            )
    if "label" in columns:
        labels = table.column(columns["label"]).slice(0, _LINES_TRIED).to_pylist()
        if labels and not any(map(_is_label, labels)):
            raise UserError(
                f"expected whole numbers in the column {columns['label']!r} of {path}, got "
                f"{labels[0]!r}: number the classes, or set label=None"
            )


def hash_of_file(path: str) -> str:
    """Returns a table's SHA-256, in hex."""
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(path, columns, delimiter, encloses):
    """Parses in parallel, or, where a row is odd, row by row, so that it can be named."""
    import pyarrow
    import pyarrow.csv

    # Bytes: a caption of digits stays text, and one that isn't UTF-8 spoils its own row only.
    types = dict.fromkeys(columns, pyarrow.binary())
    convert = pyarrow.csv.ConvertOptions(column_types=types, include_columns=columns)
    problems: list[Problem] = []

    def parse(read, on_odd_row):
        options = pyarrow.csv.ParseOptions(
            delimiter=delimiter,
            quote_char=encloses and '"',
            newlines_in_values=encloses,
            invalid_row_handler=on_odd_row,
        )
        with _open(path) as file:
            return pyarrow.csv.read_csv(file, read, options, convert)

    def skip(row):
        problems.append((f"{base_name(path)}:line {row.number}", RAGGED))
        return "skip"

    try:
        return parse(None, None), problems
    except pyarrow.ArrowInvalid:
        read = pyarrow.csv.ReadOptions(use_threads=False, block_size=_LARGE_BLOCK)
        return parse(read, skip), problems


def _names(path, delimiter, encloses):
    with _open(path) as file:
        head = file.readline().decode("utf-8-sig", "replace").rstrip("\r\n")
    names = head.split(delimiter)
    if encloses:
        return [name.strip('"') for name in names]
    if any(name.startswith('"') for name in names):
        raise UserError(
            f"expected names of columns without quotes in {path}, got {head[:80]!r}: set "
            f"quotes=True, as its values stand in quotes"
        )
    return names


def _lines_within_quotes(path, delimiter) -> int:
    """Returns how many lines are no row of their own, as they are within quotes.

    Raises:
        ValueError: quotes that don't enclose whole values, so that Arrow would join rows.
    """
    with _open(path) as file:
        text = io.TextIOWrapper(file, "latin-1", newline="")
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        usual = csv.field_size_limit(_LONGEST_VALUE)
        try:
            return -sum(1 for _ in reader) + reader.line_num
        except csv.Error as error:
            raise UserError(
                f"expected quotes that enclose whole values in {path}, got others in line "
                f"{reader.line_num} ({error}): set quotes=False, if quotes are part of its texts"
            ) from None
        finally:
            csv.field_size_limit(usual)


def _enclosed_values(path, delimiter) -> int:
    """Returns how many values of the first lines have quotes around them."""
    with _open(path) as file:
        lines = [line.rstrip(b"\r\n") for line in itertools.islice(file, 1, _LINES_TRIED)]
    values = [value for line in lines for value in line.split(delimiter.encode())]
    return sum(len(v) > 1 and v.startswith(b'"') and v.endswith(b'"') for v in values)


def _check_column(column, names, path):
    check_name(f"a column of {path}", column, names)
    if names.count(column) > 1:
        raise UserError(f"expected one column {column!r} in {path}, got several: rename them")


def _inner(kind):
    """The type of a dictionary's values, for categories."""
    import pyarrow.types

    return kind.value_type if pyarrow.types.is_dictionary(kind) else kind


def _is_text(kind):
    import pyarrow.types as types

    checks = (types.is_string, types.is_large_string, types.is_string_view, *_bytes_checks())
    return any(check(kind) for check in checks)


def _bytes_checks():
    import pyarrow.types as types

    return types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary


def _is_image(kind):
    """Paths, bytes, or Hugging Face's {bytes, path}."""
    import pyarrow.types

    if not pyarrow.types.is_struct(kind):
        return _is_text(kind)
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return bool(fields.keys() & {"bytes", "path"})


def _is_number(kind):
    import pyarrow.types as types

    numbers = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    return _is_text(kind) or any(check(kind) for check in numbers)


def _is_label(value):
    try:
        label_of(value)
    except BadSample:
        return False
    return True


_IS_FIT = {"image": _is_image, "text": _is_text, "label": _is_number}
_EXPECTED = {
    "image": "paths, encoded images or {bytes, path}",
    "text": "texts",
    "label": "whole numbers",
}


def _line(error):
    return str(error).splitlines()[0][:200]


def _open(path) -> Any:
    try:
        system, name = file_system(path)
        return system.open(name, "rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise NotFound(f"expected a table, found no file {path}: check the path") from None
