"""Random images and captions, for tests and speed measurements; and arrays in memory."""

from collections.abc import Sequence

import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.data.images import sides_of
from toklip_jax.data.sources.base import ARRAYS, SourceKind
from toklip_jax.data.transforms import Sample


class ArraySource:
    """Rows of equally long arrays in memory."""

    def __init__(self, **arrays: np.ndarray):
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"expected arrays of one length, got {lengths}")
        self.arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Sample:
        return {name: array[index] for name, array in self.arrays.items()}


def open_synthetic(
    num_samples: int = 64,
    image_size: int | Sequence[int] = 16,
    context_length: int = 8,
    vocab_size: int = 64,
    num_captions: int = 2,
    num_classes: int = 4,
    seed: int = 0,
) -> ArraySource:
    """Returns random `images`, random ids as their `captions`, and `labels` that count up.

    Args:
        image_size: the side of a square in pixels, (height, width), or (frames, height, width).
        num_classes: labels are 0, 1, ..., num_classes - 1, 0, 1, ...
    """
    if min(num_samples, context_length, vocab_size, num_captions, num_classes) < 1:
        raise UserError("expected numbers of at least 1 for a synthetic source, got one below")
    if vocab_size > 2**31:
        raise UserError(f"expected a vocab_size of at most {2**31}, got {vocab_size}")
    if seed < 0:
        raise UserError(f"expected a seed of at least 0 for a synthetic source, got {seed}")
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_samples, *sides_of(image_size), 3), np.uint8)
    shape = (num_samples, num_captions, context_length)
    captions = rng.integers(0, vocab_size, shape, np.int32)
    labels = (np.arange(num_samples) % num_classes).astype(np.int32)
    return ArraySource(images=images, captions=captions, labels=labels)


SYNTHETIC = SourceKind("synthetic", open_synthetic, ARRAYS, size="image_size")
