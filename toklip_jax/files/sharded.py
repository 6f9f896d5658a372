"""Tensors in several safetensors files with an index, as Hugging Face's libraries write them.

model.safetensors                  where all tensors fit into one file; or
model-00001-of-00002.safetensors   the tensors, each whole in one of the shards
model-00002-of-00002.safetensors
model.safetensors.index.json       {"metadata": {"total_size": bytes},
                                    "weight_map": {tensor: shard}}
"""

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.printable import printable
from toklip_jax.files.lazy import AnyLazy
from toklip_jax.files.limits import MAX_TENSORS
from toklip_jax.files.mapped import AnyMapped, MappedFile, MappedFiles
from toklip_jax.files.safetensors import MAX_HEADER_BYTES, read_safetensors, write_safetensors

SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"
MAX_NAME = 256  # characters of a file's name, of most file systems
MAX_SHARDS = 1000  # each is an open file
MAX_SHARD_BYTES = 5 * 10**9  # Hugging Face's default


def find_sharded(directory: str | pathlib.Path, stem: str) -> pathlib.Path | None:
    """Returns the path of `stem`'s index, or of its one file, in a directory; None if neither."""
    directory = pathlib.Path(directory)
    paths = (directory / f"{stem}{INDEX_SUFFIX}", directory / f"{stem}{SUFFIX}")
    return next((path for path in paths if path.is_file()), None)


def is_index(path: str | pathlib.Path) -> bool:
    """Tells whether a path is that of an index, by its name."""
    return pathlib.Path(path).name.endswith(INDEX_SUFFIX)


def read_sharded(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], AnyMapped]:
    """Returns named arrays, read-only views, and the mapped file or files that they are views of.

    Args:
        path: the path of an index, or of one safetensors file.

    Raises:
        ValueError: a file is damaged, missing or empty, or does not hold what the index says.
    """
    path = pathlib.Path(path)
    if not is_index(path):
        file = _map(path)
        return read_safetensors(file), file
    names_in = read_index(path)
    files, tensors = [], {}
    for shard, expected in names_in.items():
        files.append(_map(path.parent / shard))
        found = read_safetensors(files[-1])
        if expected != found.keys():
            differing = ", ".join(map(printable, sorted(expected ^ found.keys())[:4]))
            raise UserError(
                f"expected in {files[-1].path} the tensors that {path.name} names, got others "
                f"({differing}): fetch all files again"
            )
        tensors |= found
    return tensors, MappedFiles(path, files)


def read_index(path: pathlib.Path) -> dict[str, set[str]]:
    """Returns the names of each shard's tensors; a shard is a file beside the index.

    Raises:
        ValueError: the index is damaged, too large, or names a file elsewhere.
    """
    if path.stat().st_size > MAX_HEADER_BYTES:
        raise UserError(f"expected an index of at most {MAX_HEADER_BYTES} bytes, got {path}")
    try:
        index = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): fetch it again") from error
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise UserError(f"expected a weight_map in {path}, found none: fetch it again")
    names_in: dict[str, set[str]] = {}
    for name, shard in shard_of.items():
        is_name = isinstance(shard, str) and "\0" not in shard and 0 < len(shard) < MAX_NAME
        if not is_name or shard == ".." or pathlib.PurePath(shard).name != shard:
            raise UserError(
                f"expected the names of files beside {path} in it, got {printable(shard)} for "
                f"{printable(name)}"
            )
        names_in.setdefault(shard, set()).add(name)
    if len(names_in) > MAX_SHARDS or len(shard_of) > MAX_TENSORS:
        raise UserError(
            f"expected at most {MAX_SHARDS} files and {MAX_TENSORS} tensors in {path}, got "
            f"{len(names_in)} and {len(shard_of)}"
        )
    return names_in


def write_sharded(
    directory: str | pathlib.Path,
    stem: str,
    tensors: Mapping[str, AnyLazy],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named arrays in order, each made, written and let go before the next.

    Args:
        max_shard_bytes: where the tensors have more, they are split over several files and an
            index is written; a larger tensor has a file to itself.
        metadata: what each file says of itself; nothing unless given.
    """
    directory = pathlib.Path(directory)
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        write_safetensors(directory / f"{stem}{SUFFIX}", shards[0], metadata)
        return
    shard_of = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}{SUFFIX}"
        write_safetensors(directory / file, shard, metadata)
        shard_of |= dict.fromkeys(shard, file)
    total = sum(array.nbytes for array in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": shard_of}
    (directory / f"{stem}{INDEX_SUFFIX}").write_text(json.dumps(index, indent=2) + "\n")


def _split(tensors, max_bytes):
    shards, size = [{}], 0
    for name, array in tensors.items():
        if shards[-1] and size + array.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = array
        size += array.nbytes
    return shards


def _map(path):
    if not path.is_file() or not path.stat().st_size:
        raise UserError(
            f"{path.parent} is damaged: {printable(path.name)} is missing or empty; fetch or "
            f"convert it again"
        )
    return MappedFile(path)
