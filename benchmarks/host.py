"""Measures the host's work beside the model: decoding per core, and a retrieval evaluation.

    python -m benchmarks.run --suite=cpu --only=host

`decoding.py` and `retrieval.py` measure more, each as a command of its own.
"""

import argparse
import io
import os
import time
from typing import Any

import numpy as np
import PIL.Image

from benchmarks import decoding, retrieval
from benchmarks.timing import Case, alternate, compare, machine
from toklip_jax.data.images import Decode
from toklip_jax.evaluation.retrieval import positives_from_labels, recall_at_k

PICTURES = 100
SIZES = argparse.Namespace(images=20_000, captions=10_000, dim=1152)


def measure(pictures: int = PICTURES, sizes: argparse.Namespace = SIZES) -> dict[str, Any]:
    """Returns rows: the training transform beside Pillow alone, and ranking both ways."""
    everywhere = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everywhere)})
        rows = [decode(pictures, side) for side in decoding.SIDES]
    finally:
        os.sched_setaffinity(0, everywhere)
    return {"machine": machine(), "rows": [*rows, rank(sizes)]}


def decode(pictures: int, side: int, size: int = 256) -> dict[str, Any]:
    """A row: the transform, checks and draws included, beside a like crop by Pillow alone."""
    transform, random = Decode(size, is_training=True), np.random.default_rng(0)

    def ours(data):
        return [transform({"image": picture}, random)["images"] for picture in data]

    def pillow(data):
        pictures = (PIL.Image.open(io.BytesIO(picture)).convert("RGB") for picture in data)
        bicubic = PIL.Image.Resampling.BICUBIC
        crop = (0.01 * side, 0.01 * side, 0.98 * side, 0.98 * side)
        return [np.asarray(picture.resize((size, size), bicubic, crop)) for picture in pictures]

    def draw(random):
        first = int(random.integers(1 << 30))
        return ([decoding.jpeg(side, seed) for seed in range(first, first + pictures)],)

    seconds = alternate({"ours": Case(ours), "Pillow": Case(pillow)}, draw)
    what = f"decoding {pictures} JPEGs of {side} px to {size}, one core"
    return compare(seconds, "ours", "Pillow", what, None)


def rank(sizes: argparse.Namespace) -> dict[str, Any]:
    """A row: ranks of all images for all texts and back, checked against full sorts."""
    images, texts, image_labels, text_labels = retrieval.features(sizes)
    pairs = (
        (images, texts, positives_from_labels(image_labels, text_labels)),
        (texts, images, positives_from_labels(text_labels, image_labels)),
    )
    start = time.perf_counter()
    for queries, keys, positives in pairs:
        recall_at_k(queries, keys, positives)
    seconds = time.perf_counter() - start
    retrieval.check(images, texts, image_labels, text_labels)
    what = f"retrieval, {sizes.images} images and {sizes.captions} texts, both ways"
    return {"what": what, "value": seconds, "unit": "s"}
