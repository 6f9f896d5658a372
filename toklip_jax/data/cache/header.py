"""A cache of what frozen models make of a data set: images as ids, so that no pixels are needed.

cache/
    header.json                        what was encoded by what, and where a record's fields are
    tokenizer.json                     the text tokenizer of its captions
    part-00000-of-00064.array_record   records in the source's order, as many shards as needed

A record is one image: `Header.record_bytes` bytes of fields at fixed places, little-endian, then
the caption in UTF-8 if the source has any. A field that depends on the crop is there `crops` times.

The header ends with a checksum of itself; those of earlier versions have none.

Format 1 knew square images with one id a place; its headers are read as what they mean in format 2,
and its records are the same.
"""

import dataclasses
import importlib.metadata
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.fields import check_type, type_hints
from toklip_jax.core.home import expand_user
from toklip_jax.data.cache.fields import DTYPES, Field, lay_out
from toklip_jax.data.fingerprints import hash_of
from toklip_jax.data.images.sizes import sides_of
from toklip_jax.data.transforms import Sample
from toklip_jax.ops.grids import square_grid

FORMAT = 2
HEADER = "header.json"
DATA = "data"  # in a header's hashes; caches of before it was there have none
_MAX_BYTES = 2**24  # of a header; most are the names of classes
HIDDEN = ("index",)  # fields that are no part of a sample
ENCODE = "python -m toklip_jax.encode"


@dataclasses.dataclass(frozen=True)
class Header:
    """The description of a cache: its contents and their origin. Equal headers mean equal caches.

    Attributes:
        num_samples: length of the source; samples that can't be read have no record.
        records_per_shard: samples that a shard covers, readable or not.
        crops: crops of each image.
        image_size: the size of the encoded images: the side of a square in pixels, (height, width),
            or (frames, height, width).
        grid: places that ids stand at, (h, w) or (t, h, w).
        codes_per_place: ids at each place.
        codebook_sizes: how many values each of a place's ids can have.
        context_length: the length of `token_ids`; 0 without.
        fields: a record's arrays.
        has_captions: whether the caption stands at a record's end.
        hashes: SHA-256 of the parameters of `vq`, `teacher`, `text_tower`, `text_encoder`, of the
            `tokenizer`, and of the `data` (see `data_fingerprint`).
        transform: the settings that made the crops: the stage's `augment`, `seed`, and `resize`,
            which is "" unless whole images were encoded.
        compute: types that the models computed in.
        source: the data source's config.
        classes: names of the labels, if the source knows them.
        vq: the VQ tokenizer's config as files have it; {} in caches of before it was there.
        toklip_jax: the version that wrote it, for people.

    Raises:
        ValueError: a number out of its range, ids whose shape is not that of the grid, fields that
            aren't one after another, or too few codebook sizes.
    """

    num_samples: int
    records_per_shard: int
    crops: int
    image_size: int | tuple[int, ...]
    grid: tuple[int, ...]
    codes_per_place: int
    codebook_sizes: tuple[int, ...]
    context_length: int
    fields: tuple[Field, ...]
    has_captions: bool
    hashes: Mapping[str, str]
    transform: Mapping[str, Any]
    compute: Mapping[str, str]
    source: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    vq: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    toklip_jax: str = dataclasses.field(
        default_factory=lambda: importlib.metadata.version("toklip_jax")
    )
    format: int = FORMAT

    def __post_init__(self):
        for name in ("num_samples", "records_per_shard", "crops", "codes_per_place"):
            _expect_number(name, getattr(self, name))
        for name in ("grid", "codebook_sizes"):
            for value in getattr(self, name):
                _expect_number(name, value)
        _expect_number("context_length", self.context_length, least=0)
        sides_of(self.image_size)
        self._check_fields()
        if len(self.codebook_sizes) != self.codes_per_place:
            raise UserError(
                f"expected a codebook size for each of {self.codes_per_place} ids a place, got "
                f"{self.codebook_sizes}"
            )
        for field in self.fields:
            if field.name == "ids" and field.shape != self.ids_shape:
                raise UserError(f"expected ids of shape {self.ids_shape}, got {field.shape}")

    def _check_fields(self):
        for field in self.fields:
            for value in field.shape:
                _expect_number(f"shape of {field.name}", value)
            if field.count not in (1, self.crops):
                raise UserError(f"expected {field.name} once or for each crop, got {field.count}")
        if [field.name for field in self.fields].count("ids") != 1:
            raise UserError("expected one field of ids")
        if self.fields != lay_out(self.fields):
            raise UserError("expected fields one after another, got gaps or overlaps")

    @property
    def num_tokens(self) -> int:
        """Places of the grid."""
        return math.prod(self.grid)

    @property
    def ids_shape(self) -> tuple[int, ...]:
        """Shape of one image's ids: (n,), or (n, q) where a place has q ids."""
        n, q = self.num_tokens, self.codes_per_place
        return (n,) if q == 1 else (n, q)

    @property
    def num_shards(self) -> int:
        return -(-self.num_samples // self.records_per_shard)

    @property
    def record_bytes(self) -> int:
        """Bytes of a record without its caption."""
        return sum(field.count * field.size for field in self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of a sample's fields."""
        return tuple(field.name for field in self.fields if field.name not in HIDDEN)

    def shard(self, number: int) -> str:
        """Returns the file's name of a shard."""
        return f"part-{number:05}-of-{self.num_shards:05}.array_record"

    def read(self, record: bytes, crop: int) -> Sample:
        """Returns a record's sample: one of its crops, with what all crops share."""
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
        data["checksum"] = hash_of(data)
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
    path = expand_user(directory) / HEADER
    if not path.is_file():
        raise NotFound(
            f"expected a cache in {directory}, found no {HEADER}: make one with `{ENCODE} "
            f"--config=... --output={directory}`"
        )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"it has more than {_MAX_BYTES} bytes")
        data = json.loads(path.read_text())
        if data.pop("checksum", None) not in (None, hash_of(data)):
            raise UserError("it was changed after it was written")
        if data.get("format") in _READERS:
            header = _READERS[data["format"]](data)
            if data["record_bytes"] != header.record_bytes:
                raise UserError(f"records of {data['record_bytes']} bytes don't fit their fields")
            return header
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): encode again") from error
    raise UserError(
        f"expected a cache of format {' or '.join(map(str, _READERS))}, got {data.get('format')} "
        f"in {directory}: another version of toklip_jax wrote it; encode again"
    )


def expect_complete(header: Header, directory: str | pathlib.Path) -> list[str]:
    """Returns the paths of a cache's shards.

    Raises:
        ValueError: some are not there.
    """
    directory = expand_user(directory)
    there = {path.name for path in directory.iterdir() if path.is_file()}
    numbers = range(header.num_shards)
    # The first that is missing comes soon, even where a damaged header asks for millions.
    if missing := next((name for name in map(header.shard, numbers) if name not in there), None):
        found = sum(name.startswith("part-") for name in there)
        raise UserError(
            f"expected {len(numbers)} shards in {directory}, found {found} (no {missing}): run "
            f"the command that wrote it again, and it resumes; or, if it was finished, {HEADER} is "
            f"damaged: encode again"
        )
    return [str(directory / header.shard(i)) for i in numbers]


def _expect_number(name, value, least=1):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"expected {name} of at least {least}, got {value!r}")


def _from_format_1(data) -> Header:
    """Square images, and one id of one codebook at each place of a square grid."""
    return _from_format_2(
        data
        | {
            "grid": square_grid(data["num_tokens"]),
            "codes_per_place": 1,
            "codebook_sizes": [data["codebook_size"]],
            "format": FORMAT,
        }
    )


def _from_format_2(data) -> Header:
    fields = tuple(_checked(Field, f | {"shape": tuple(f["shape"])}) for f in data["fields"])
    if unknown := {field.dtype for field in fields} - set(DTYPES):
        raise UserError(f"unknown types {sorted(unknown)}")
    data = {"vq": {}} | data  # caches of before it was there have none
    values = {field.name: data[field.name] for field in dataclasses.fields(Header)}
    for name in ("grid", "codebook_sizes", "classes"):
        values[name] = tuple(values[name])
    if not isinstance(values["image_size"], int):
        values["image_size"] = tuple(values["image_size"])
    return _checked(Header, values | {"fields": fields})


def _checked(cls, values):
    """Returns `cls(**values)`, values of the types that it says."""
    hints = type_hints(cls)
    return cls(**{name: check_type(value, hints[name], name) for name, value in values.items()})


_READERS = {1: _from_format_1, 2: _from_format_2}
