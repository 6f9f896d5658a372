"""A cache as Parquet, for trainers of language models: a file a shard, a row a crop.

Columns: `image_tokens`, a list of ids with an offset added, so that they follow a language model's
own; `caption`, null where the source had no texts. The schema's metadata holds the offset and what
the ids are, under `toklip_jax`.
"""

import json
import os
import pathlib

import numpy as np

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
        id_offset: added to every id: the size of the vocabulary that the ids are put after.
        host: of `hosts`; each writes every `hosts`-th file.

    Raises:
        FileNotFoundError, ValueError: no cache, or one that is not finished; an offset that is
            negative or leaves int32.
    """
    header = load_header(directory)
    if not 0 <= id_offset <= 2**31 - header.codebook_size:
        raise ValueError(
            f"expected an id_offset from 0 to {2**31 - header.codebook_size}, got {id_offset}"
        )
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for path in expect_complete(header, directory)[host::hosts]:
        target = output / pathlib.Path(path).with_suffix(".parquet").name
        _write(target, _table(header, read_records(path), id_offset))
        written.append(target)
    return written


def _table(header: Header, records: list[bytes], id_offset: int):
    import pyarrow as pa

    (ids,) = (field for field in header.fields if field.name == "ids")
    crops = range(header.crops)
    rows = [ids.read(record, crop) for record in records for crop in crops]
    flat = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    is_small = id_offset + header.codebook_size <= 2**16
    values = (flat.astype(np.int64) + id_offset).astype(np.uint16 if is_small else np.int32)
    ends = np.arange(len(rows) + 1, dtype=np.int32) * header.num_tokens
    captions = [_caption(header, record) for record in records for _ in crops]
    columns = {
        "image_tokens": pa.ListArray.from_arrays(pa.array(ends), pa.array(values)),
        "caption": pa.array(captions, pa.string()),
    }
    about = {
        "id_offset": id_offset,
        "codebook_size": header.codebook_size,
        "num_tokens": header.num_tokens,
        "image_size": header.image_size,
        "crops": header.crops,
        "vq_sha256": header.hashes["vq"],
    }
    return pa.table(columns).replace_schema_metadata({METADATA: json.dumps(about)})


def _caption(header, record):
    return record[header.record_bytes :].decode() if header.has_captions else None


def _write(path, table):
    import pyarrow.parquet

    draft = path.with_name(f".{path.name}")
    pyarrow.parquet.write_table(table, draft)
    os.replace(draft, path)
