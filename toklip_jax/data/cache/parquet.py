"""A cache as Parquet, for trainers of language models: one file per shard, one row per crop.

Columns: `image_tokens`, a list of ids with an offset added, so that they follow a language model's
own; `caption`, null where the source had no texts. The schema's metadata holds the offset and what
the ids are, under `toklip_jax`.

Where a place has q ids, `image_tokens` is a list of lists: per place, in row-major order, its q
ids. The same offset is added to all of them; codebook i's ids are below `codebook_sizes[i]` of the
metadata before it is, so a trainer that wants ranges of their own adds the sizes before i to it.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.cache.header import Header, expect_complete, load_header
from toklip_jax.data.record_files import read_records

METADATA = b"toklip_jax"


def export_parquet(
    directory: str | pathlib.Path,
    output: str | pathlib.Path,
    id_offset: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> list[pathlib.Path]:
    """Writes a finished cache as Parquet and returns the files, each whole or not at all.

    Args:
        id_offset: added to every id: the size of the vocabulary that the ids come after.
        host: this host's number of `hosts`; each writes every `hosts`-th file.

    Raises:
        FileNotFoundError, ValueError: no cache, or one that is not finished; an offset that is
            negative or leaves int32; Parquet files of something else in `output`.
    """
    header = load_header(directory)
    largest = 2**31 - max(header.codebook_sizes)
    if not 0 <= id_offset <= largest:
        raise UserError(f"expected an id_offset from 0 to {largest}, got {id_offset}")
    output = expand_user(output)
    output.mkdir(parents=True, exist_ok=True)
    targets = {
        output / pathlib.Path(path).with_suffix(".parquet").name: path
        for path in expect_complete(header, directory)
    }
    about = json.loads(json.dumps(_about(header, id_offset)))  # as it is read
    _expect_no_others(output, targets, about)
    written = []
    for target, path in list(targets.items())[host::hosts]:
        records = read_records(path)
        expect_whole(header, records, path)
        write_table(target, _table(header, records, about))
        written.append(target)
    return written


def _expect_no_others(output, targets, about):
    """Checks that all Parquet files in a directory are this export's: readers take them all."""
    import pyarrow.parquet

    for path in sorted(output.glob("[!.]*.parquet")):  # not drafts, of another host perhaps
        with contextlib.suppress(pyarrow.ArrowInvalid, OSError):
            metadata = pyarrow.parquet.read_schema(path).metadata or {}
            if path in targets and json.loads(metadata.get(METADATA, b"{}")) == about:
                continue
        raise UserError(
            f"expected no Parquet files of another cache or offset in {output}, found {path.name}: "
            f"choose another directory, or remove them"
        )


def expect_whole(header: Header, records: list[bytes], path: str) -> None:
    """Checks that records are this cache's: their lengths, and that captions are text.

    Raises:
        ValueError: one isn't.
    """
    size = header.record_bytes
    for row, record in enumerate(records):
        caption = record[size:]
        try:
            caption.decode()
            is_whole = len(record) >= size and (header.has_captions or not caption)
        except UnicodeDecodeError:
            is_whole = False
        if not is_whole:
            raise UserError(
                f"expected records of this cache in {path}, got another in row {row}: the shard is "
                f"of another cache, or damaged; encode again"
            )


def _table(header: Header, records: list[bytes], about: dict[str, Any]):
    (ids,) = (field for field in header.fields if field.name == "ids")
    crops = range(header.crops)
    rows = [ids.read(record, crop) for record in records for crop in crops]
    captions = [_caption(header, record) for record in records for _ in crops]
    ids = np.stack(rows) if rows else np.zeros((0, *ids.shape), np.int32)
    return ids_table(ids, {"caption": captions}, about, about["id_offset"])


def _about(header, id_offset):
    """What the files' metadata says of the ids."""
    return {
        "id_offset": id_offset,
        "grid": header.grid,
        "codes_per_place": header.codes_per_place,
        "codebook_sizes": header.codebook_sizes,
        "num_tokens": header.num_tokens,
        "image_size": header.image_size,
        "crops": header.crops,
        "vq_sha256": header.hashes.get("vq", ""),
    }


def ids_table(
    ids: np.ndarray,
    columns: Mapping[str, Sequence[str | None]],
    about: Mapping[str, Any],
    id_offset: int = 0,
):
    """Returns an Arrow table: `image_tokens`, and columns of texts.

    Args:
        ids: integers [rows, n] or [rows, n, q].
        about: what the ids are, for the schema's metadata; has `codebook_sizes`.
        id_offset: added to every id.
    """
    import pyarrow as pa

    is_small = id_offset + max(about["codebook_sizes"]) <= 2**16
    tokens = _nested_lists(ids, np.uint16 if is_small else np.int32, id_offset)
    texts = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    metadata = {METADATA: json.dumps({"id_offset": id_offset, **about})}
    return pa.table({"image_tokens": tokens, **texts}).replace_schema_metadata(metadata)


def _nested_lists(ids: np.ndarray, dtype: type, id_offset: int):
    """An Arrow column of ids [rows, n] or [rows, n, q] with the offset added: a list per axis."""
    import pyarrow as pa

    column = pa.array((ids.astype(np.int64) + id_offset).astype(dtype).ravel())
    for axis in range(ids.ndim - 1, 0, -1):
        length = ids.shape[axis]
        ends = np.arange(len(column) // length + 1, dtype=np.int32) * length
        column = pa.ListArray.from_arrays(pa.array(ends), column)
    return column


def _caption(header, record):
    return record[header.record_bytes :].decode() if header.has_captions else None


def write_table(path: pathlib.Path, table: Any) -> None:
    """Writes an Arrow table as Parquet, whole or not at all."""
    import pyarrow.parquet

    draft = path.with_name(f".{path.name}")
    pyarrow.parquet.write_table(table, draft)
    os.replace(draft, path)
