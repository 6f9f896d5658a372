"""Reading of benchmarks' files: json, json lines and tables, with one error for another form."""

import base64
import binascii
import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.printable import printable
from toklip_jax.data.paths import expand_home
from toklip_jax.evaluation.comprehension.pictures import ImageBytes, ImageFile

LONGEST_VALUE = 2**31 - 1  # of a table: an image in base64
KEY = str | int  # the type of what names a question or an image
REFERENCE_LENGTH = 64  # a shorter "image" is the index of the row that has it
# What pandas, by which the public scripts read these tables, takes for no value.
NO_VALUE = frozenset(
    """#N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a nan null
    none""".split()
) | {"", "#N/A N/A"}


def local_file(path: str, what: str) -> str:
    """Returns the path with its "~" expanded.

    Args:
        what: the kind of file, for the message.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = expand_home(path)
    if not os.path.isfile(path):
        raise NotFound(f"expected {what}, found no file {path}: check the path")
    return path


def local_folder(path: str, what: str) -> str:
    """Returns the path with its "~" expanded; arguments as `local_file`.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    path = expand_home(path)
    if not os.path.isdir(path):
        raise NotFound(f"expected {what}, found no folder {path}: check the path")
    return path


def image_in(folder: str, name: str) -> ImageFile:
    """Returns the image of this name in a folder.

    Raises:
        ValueError: the name leads out of it.
    """
    if os.path.isabs(name) or ".." in name.split("/"):
        raise UserError(f"expected an image's name within {folder}, got {printable(name)!r}")
    return ImageFile(os.path.join(folder, name))


def read_json(path: str, what: str) -> Any:
    """Returns the content of a json file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't json.
    """
    path = local_file(path, what)
    with _readable(path, what), open(path, encoding="utf-8") as file:
        return json.load(file)


def read_json_lines(path: str, what: str) -> list[Any]:
    """Returns the values of a file with one on each line; raises as `read_json`."""
    path = local_file(path, what)
    with _readable(path, what), open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def read_lines(path: str, what: str) -> list[str]:
    """Returns the lines of a text that hold anything; raises as `read_json`."""
    path = local_file(path, what)
    with _readable(path, what), open(path, encoding="utf-8-sig") as file:
        return [line for line in file.read().split("\n") if line.strip()]


def read_table(path: str, what: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Returns the rows of a table whose columns are separated by tabs, quotes enclosing values.

    Args:
        columns: those that it has to have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a row has too few or too many values.
    """
    path = local_file(path, what)
    usual = csv.field_size_limit(LONGEST_VALUE)
    try:
        with _readable(path, what), open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            names = reader.fieldnames or []
            if missing := [name for name in columns if name not in names]:
                raise UserError(
                    f"expected a column {missing[0]!r} in {path}, found {list(names)}: is it "
                    f"{what}?"
                )
            rows = list(reader)
    finally:
        csv.field_size_limit(usual)
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise UserError(
                f"expected {len(names)} values in each row of {path}, got another number in row "
                f"{number}: download it again"
            )
    return rows


def records(value: Any, path: str, what: str) -> list[Mapping[str, Any]]:
    """Returns a list of json objects.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise UserError(f"expected a list of records in {path}: is it {what}?")
    return value


def values_of(row: Any, names: Iterable[str] | Mapping[str, Any], where: str) -> list[Any]:
    """Returns the fields of a record.

    Args:
        names: those of the fields, perhaps with their types.
        where: the record and its file, for the message.

    Raises:
        ValueError: one is missing or of another type, or it is no record.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"expected a record as {where}, got a {type(row).__name__}")
    if missing := [name for name in names if name not in row]:
        raise UserError(f"expected {missing[0]!r} in {where}, found {sorted(map(str, row))}")
    for name, kind in names.items() if isinstance(names, Mapping) else ():
        if not isinstance(row[name], kind):
            expected = kind.__name__ if isinstance(kind, type) else kind
            raise UserError(
                f"expected {name!r} of type {expected} in {where}, got "
                f"{printable(repr(row[name]), 40)}: correct it"
            )
    return [row[name] for name in names]


def has_value(text: str | None) -> bool:
    """Says whether a table's cell holds something, as pandas and the public scripts see it."""
    return text is not None and text not in NO_VALUE and text.lower() not in ("nan", "none")


def table_images(rows: Sequence[Mapping[str, str]], path: str) -> Iterator[ImageBytes]:
    """Yields the image of each row of a table with the columns `index` and `image`, in base64.

    A short `image` is the index of another row, which has it, as in VLMEvalKit's tables.

    Raises:
        ValueError: no base64, or no such row.
    """
    texts = {row["index"]: row["image"] for row in rows}
    for row in rows:
        text = row["image"]
        if len(text) <= REFERENCE_LENGTH:
            text = texts.get(text, "")
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error:
            data = b""
        if not data:
            raise UserError(
                f"expected an image in base64 in row {printable(row['index'])} of {path}, got "
                f"{printable(row['image'], 20)!r}: download it again"
            )
        yield ImageBytes(data, f"{path}:{printable(row['index'])}")


@contextlib.contextmanager
def _readable(path, what):
    try:
        yield
    except UserError:
        raise
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"expected {what}, got {path}, which can't be read ({error})") from error
