"""Small caches of ids, and what is in them, for the tests in this folder."""

import numpy as np

from toklip_jax.data.cache import Field, Header, lay_out
from toklip_jax.data.record_files import write_records

CROPS, TOKENS, WIDTH = 3, 4, 5


def make_header(**changes):
    fields = lay_out(
        [
            Field("ids", "uint16", (TOKENS,), CROPS),
            Field("token_ids", "uint32", (6,)),
            Field("teacher_feature", "bfloat16", (WIDTH,), CROPS),
            Field("index", "int64", ()),
            Field("labels", "int32", ()),
        ]
    )
    values = {
        "num_samples": 10,
        "records_per_shard": 4,
        "crops": CROPS,
        "image_size": 16,
        "grid": (2, 2),
        "codes_per_place": 1,
        "codebook_sizes": (60_000,),
        "context_length": 6,
        "fields": fields,
        "has_captions": True,
        "hashes": {"vq": "a", "teacher": "b", "text_tower": "", "tokenizer": "c"},
        "transform": {"augment": {"scale": [0.9, 1.0]}, "resize": "", "seed": 0},
        "compute": {"dtype": "float32", "vq_dtype": "float32"},
        "source": {"kind": "synthetic"},
        "classes": ("cat", "dog"),
    }
    return Header(**values | changes)


def arrays_of(i):
    rng = np.random.default_rng(i)
    return {
        "ids": rng.integers(0, 60_000, (CROPS, TOKENS)),
        "token_ids": rng.integers(0, 256_000, (1, 6)),
        "teacher_feature": rng.standard_normal((CROPS, WIDTH)),
        "index": np.array([i]),
        "labels": np.array([i % 2]),
    }


def write_cache(directory):
    """Writes ten samples of which number 5 could not be read, in three shards."""
    header = make_header()
    header.save(directory)
    for shard in range(header.num_shards):
        inside = range(4 * shard, min(4 * shard + 4, 10))
        records = [header.pack(arrays_of(i), f"caption ü {i}") for i in inside if i != 5]
        write_records(directory / header.shard(shard), records)


def several_ids_header(**changes):
    """Videos of 2 x 3 x 1 places with two ids each, one of a codebook above 16 bits."""
    fields = lay_out([Field("index", "int64", ()), Field("ids", "uint32", (6, 2), CROPS)])
    values = {
        "image_size": (4, 24, 8),
        "grid": (2, 3, 1),
        "codes_per_place": 2,
        "codebook_sizes": (2**18, 16),
        "fields": fields,
        "num_samples": 3,
    }
    return make_header(**values | changes)


def source_config(directory):
    return {"kind": "cache", "directory": str(directory)}
