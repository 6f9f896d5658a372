"""Small files that are written whole or not at all, and json objects that are read with care."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from toklip_jax.core.errors import UserError

MAX_NAME = 255  # bytes of a file's name, nearly everywhere
MAX_BYTES = 2**25  # of a json object: ten times the results of the largest codebooks; takes 1 GB


def write_whole(path: str | pathlib.Path, content: str) -> None:
    """Writes a text file so that whoever reads it finds the old content or the new, never a part.

    Neither a kill nor a full disk leaves anything else. One process at a time may write it.
    """
    with draft_of(pathlib.Path(path)) as draft, draft.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the new name without the content


@contextlib.contextmanager
def draft_of(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives the path of a draft beside `path`, which takes its place once it is written.

    An error deletes it, and leaves what was at `path`.
    """
    name = os.fsencode(path.name)[: MAX_NAME - 1]
    draft = path.with_name(f".{os.fsdecode(name)}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: str | pathlib.Path, content: Any, **options: Any) -> None:
    """Writes json data whole or not at all; `options` are those of `json.dumps`."""
    write_whole(path, json.dumps(content, indent=2, **options) + "\n")


def read_object(path: pathlib.PurePath, remedy: str) -> dict[str, Any]:
    """Reads the json object in a file.

    Args:
        path: the path of a file, or a bucket's object as a path of etils.
        remedy: the advice on a damaged file, for the message.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no json object.
    """
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} is damaged (it has more than {MAX_BYTES} bytes): {remedy}")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path} is damaged (expected an object, got a {kind}): {remedy}")
    return content
