"""`toklip.json`: what a directory of weights says of itself, and the checksums of its files."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import from_fields
from toklip_jax.core.printable import printable, printable_lines
from toklip_jax.core.whole_files import read_object

NAME = "toklip.json"
FORMAT = 1
MAX_BYTES = 2**20  # a thousand times what it takes
REMEDY = "convert the checkpoint again, or fetch the directory again"


@dataclasses.dataclass(frozen=True)
class Description:
    """The fields of `toklip.json`.

    Attributes:
        format: the directory's format; only `FORMAT` is read.
        is_scanned: whether layers are stacked.
        source: a note for people on what the weights were converted or trained from.
        config: the model's, as json data.
        training: the identity of the training that made them, {} where none did.
        files: SHA-256 of the other files by name, in hex; {} in directories of earlier versions,
            whose files are not checked.
        checksum: SHA-256 of the fields above, in hex; "" in directories of earlier versions.
    """

    format: int
    is_scanned: bool
    source: str
    config: Mapping[str, Any]
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    checksum: str = ""

    def write(self, directory: pathlib.Path) -> None:
        """Writes `toklip.json`, its own checksum included."""
        fields = dataclasses.asdict(self)
        fields = {name: value for name, value in fields.items() if name != "training" or value}
        fields["checksum"] = _checksum(fields)  # of all others
        (directory / NAME).write_text(json.dumps(fields, indent=2) + "\n")

    def expect_files(self, directory: pathlib.Path) -> None:
        """Raises ValueError where a file is missing, or is not what was written."""
        for name in self.files:
            if pathlib.PurePath(name).name != name or not (directory / name).is_file():
                raise UserError(f"{directory} is damaged: {printable(name)} is missing; {REMEDY}")
        paths = [directory / name for name in self.files]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing doesn't hold Python's lock
            digests = list(pool.map(file_digest, paths))
        for path, digest, expected in zip(paths, digests, self.files.values(), strict=True):
            if digest != expected:
                raise UserError(
                    f"{path} is damaged, or was changed after it was written: it does not have the "
                    f"checksum that {NAME} says; {REMEDY}"
                )


def read_description(directory: pathlib.Path) -> Description:
    """Returns what `toklip.json` says.

    Raises:
        ValueError: damaged, changed, or of another format.
    """
    path = directory / NAME
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is damaged: it has more than {MAX_BYTES} bytes; {REMEDY}")
    fields = read_object(path, REMEDY)
    if fields.get("format") != FORMAT:
        raise UserError(
            f"expected weights of format {FORMAT}, got {printable(fields.get('format'))} in "
            f"{directory}: they come from another version of toklip_jax"
        )
    known = {field.name for field in dataclasses.fields(Description)}
    try:
        found = {name: value for name, value in fields.items() if name in known}
        description = from_fields(Description, found, NAME)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {printable_lines(str(error))}; {REMEDY}") from error
    if description.checksum not in ("", _checksum(fields)):
        raise UserError(
            f"{path} is damaged, or was changed after it was written: {REMEDY}; if the change is "
            f"yours, remove its field 'checksum'"
        )
    return description


def file_digest(path: pathlib.Path) -> str:
    """Returns a file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(fields):
    rest = {name: value for name, value in fields.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
