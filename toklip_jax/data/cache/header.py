"""A cache of what frozen models make of a data set: images as ids, so that no pixels are needed.

cache/
    header.json                        whose it is, and where each field lies in a record
    tokenizer.json                     of its captions
    part-00000-of-00064.array_record   records in the source's order, as many shards as needed

A record is one image: `Header.record_bytes` bytes of fields at fixed places, little-endian, then
the caption in UTF-8 if the source has any. A field that depends on the crop is there `crops` times.
"""

import dataclasses
import importlib.metadata
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from toklip_jax.data.transforms import Sample

FORMAT = 1
HEADER = "header.json"
DTYPES = {name: np.dtype(name) for name in ("uint16", "uint32", "int32", "int64", "float32")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
WIDENED = ("uint16", "uint32")  # ids, which batches have as int32
HIDDEN = ("index",)  # fields that are no part of a sample
ENCODE = "python -m toklip_jax.encode"


@dataclasses.dataclass(frozen=True)
class Field:
    """An array in a record.

    Attributes:
        name: in a sample.
        dtype: of `DTYPES`.
        shape: of one crop's.
        count: 1, or the number of crops.
        offset: in bytes, of the first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    count: int = 1
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes of one crop's."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPES[self.dtype].itemsize

    def read(self, record: bytes, crop: int) -> np.ndarray:
        """Returns the array of a crop; one that all crops share, of any."""
        start = self.offset + (crop * self.size if self.count > 1 else 0)
        number = self.size // DTYPES[self.dtype].itemsize
        array = np.frombuffer(record, DTYPES[self.dtype], number, start).reshape(self.shape)
        return array.astype(np.int32) if self.dtype in WIDENED else array


def lay_out(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Returns the fields one after another, those of large elements first, so that all align."""
    placed, offset = [], 0
    for field in sorted(fields, key=lambda f: -DTYPES[f.dtype].itemsize):
        placed.append(dataclasses.replace(field, offset=offset))
        offset += field.count * field.size
    return tuple(placed)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a cache is of. Two caches of equal headers are equal.

    Attributes:
        num_samples: of the source; those that can't be read have no record.
        records_per_shard: samples that a shard covers, read or not.
        crops: of an image.
        image_size, num_tokens, codebook_size, context_length: of what was encoded.
        fields: of a record.
        has_captions: whether the caption stands at a record's end.
        hashes: SHA-256 of the parameters of `vq`, `teacher`, `text_tower`, and of the `tokenizer`.
        transform: what made the crops: the stage's `augment`, `seed`, and `resize`, which is ""
            unless whole pictures were encoded.
        compute: types that the models computed in.
        source: the data source's config.
        classes: names of the labels, if the source knows them.
        toklip_jax: the version that wrote it, for people.
    """

    num_samples: int
    records_per_shard: int
    crops: int
    image_size: int
    num_tokens: int
    codebook_size: int
    context_length: int
    fields: tuple[Field, ...]
    has_captions: bool
    hashes: Mapping[str, str]
    transform: Mapping[str, Any]
    compute: Mapping[str, str]
    source: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    toklip_jax: str = dataclasses.field(
        default_factory=lambda: importlib.metadata.version("toklip_jax")
    )
    format: int = FORMAT

    @property
    def num_shards(self) -> int:
        return -(-self.num_samples // self.records_per_shard)

    @property
    def record_bytes(self) -> int:
        """Bytes of a record without its caption."""
        return sum(field.count * field.size for field in self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        """Of a sample's fields."""
        return tuple(field.name for field in self.fields if field.name not in HIDDEN)

    def shard(self, number: int) -> str:
        """Returns the file's name of a shard."""
        return f"part-{number:05}-of-{self.num_shards:05}.array_record"

    def read(self, record: bytes, crop: int) -> Sample:
        """Returns the sample that a crop of a record is."""
        return {f.name: f.read(record, crop) for f in self.fields if f.name not in HIDDEN}

    def pack(self, arrays: Mapping[str, np.ndarray], caption: str = "") -> bytes:
        """Returns a record of arrays [count, *shape] of every field."""
        parts = []
        for field in self.fields:
            array = np.asarray(arrays[field.name])
            assert array.shape == (field.count, *field.shape), (field, array.shape)
            parts.append(array.astype(DTYPES[field.dtype]).tobytes())
        return b"".join(parts) + caption.encode()

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `header.json`, whole or not at all."""
        data = dataclasses.asdict(self) | {
            "num_shards": self.num_shards,
            "record_bytes": self.record_bytes,
        }
        path = pathlib.Path(directory) / HEADER
        temporary = path.with_name(f".{HEADER}")
        temporary.write_text(json.dumps(data, indent=2) + "\n")
        temporary.replace(path)


def load_header(directory: str | pathlib.Path) -> Header:
    """Reads a cache's header.

    Raises:
        FileNotFoundError: no cache there.
        ValueError: damaged, or of another format.
    """
    path = pathlib.Path(directory).expanduser() / HEADER
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a cache in {directory}, found no {HEADER}: make one with `{ENCODE} "
            f"--config=... --output={directory}`"
        )
    try:
        data = json.loads(path.read_text())
        if data.get("format") == FORMAT:
            return _header(data)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): encode anew") from error
    raise ValueError(
        f"expected a cache of format {FORMAT}, got {data.get('format')} in {directory}: it comes "
        f"from another version of toklip_jax; encode anew"
    )


def expect_complete(header: Header, directory: str | pathlib.Path) -> list[str]:
    """Returns the paths of a cache's shards.

    Raises:
        ValueError: some are not there.
    """
    directory = pathlib.Path(directory).expanduser()
    paths = [directory / header.shard(i) for i in range(header.num_shards)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ValueError(
            f"expected {len(paths)} shards in {directory}, found {len(paths) - len(missing)} "
            f"(no {missing[0]}): the command that wrote it goes on where it ended, run it again"
        )
    return [str(path) for path in paths]


def _header(data) -> Header:
    names = [field.name for field in dataclasses.fields(Header)]
    fields = tuple(Field(**{**field, "shape": tuple(field["shape"])}) for field in data["fields"])
    if unknown := {field.dtype for field in fields} - set(DTYPES):
        raise ValueError(f"unknown types {sorted(unknown)}")
    known = {name: data[name] for name in names}
    return Header(**known | {"fields": fields, "classes": tuple(data["classes"])})
