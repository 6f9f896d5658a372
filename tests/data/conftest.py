"""Small data sets in the formats that the sources read."""

import io
import tarfile
import types

import numpy as np
import PIL.Image
import pytest

from tests.data import small_cache
from toklip_jax.data.record_files import write_records
from toklip_jax.data.text import TextTokenizer, train_tokenizer

WORDS = "one red blue green circle square small large"


def jpeg(level=0, size=(24, 20), mode="RGB"):
    """A smooth picture whose mean tells `level` apart."""
    pixels = np.add.outer(np.arange(size[1]), np.arange(size[0])) + level
    image = PIL.Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    return encoded(image, "JPEG")


def encoded(image, form):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def tar_bytes(members):
    """An archive of (name, data) in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pairs(first, number, label=False):
    """Members of `number` samples as img2dataset orders them: jpg, json, txt."""
    members = []
    for i in range(first, first + number):
        members += [
            (f"{i:09d}.jpg", jpeg(4 * i)),
            (f"{i:09d}.json", b"{}"),
            (f"{i:09d}.txt", f"one circle {i}".encode()),
        ]
        if label:
            members.append((f"{i:09d}.cls", str(i % 3).encode()))
    return members


def make_folder(root, *names):
    """Writes files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


@pytest.fixture
def raw():
    """Makers of raw data: `raw.jpeg(...)`, `raw.tar_bytes(...)` and so on."""
    makers = (jpeg, encoded, tar_bytes, pairs, make_folder)
    return types.SimpleNamespace(**{maker.__name__: maker for maker in makers})


@pytest.fixture(scope="session")
def tokenizer():
    return TextTokenizer(train_tokenizer([WORDS], 64), 8)


@pytest.fixture
def cache(tmp_path):
    """A cache of ten samples of which number 5 could not be read, in three shards."""
    small_cache.write_cache(tmp_path)
    return tmp_path


@pytest.fixture
def several_ids(tmp_path):
    """A cache of three videos with two ids a place, and its ids [3, crops, 6, 2]."""
    header, crops = small_cache.several_ids_header(), small_cache.CROPS
    ids = np.random.default_rng(0).integers(0, header.codebook_sizes, (3, crops, 6, 2))
    header.save(tmp_path)
    packed = [header.pack({"ids": ids[i], "index": np.array([i])}, str(i)) for i in range(3)]
    write_records(tmp_path / header.shard(0), packed)
    return tmp_path, ids
