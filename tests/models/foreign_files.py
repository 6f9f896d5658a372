"""PyTorch files of tokenizers: written, compared bit for bit, and of the published sizes."""

import json

import numpy as np

from toklip_jax.files import write_safetensors


def written(folder, tensors):
    write_safetensors(folder / "file.safetensors", tensors)
    return folder / "file.safetensors"


def same_bits(got, want):
    assert got.keys() == want.keys()
    for name in want:
        ours, theirs = np.asarray(got[name]), np.asarray(want[name])
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert ours.tobytes() == theirs.tobytes(), name


def published(golden, name, *, is_numbered=False):
    """Tensors of a published file's shapes that take no memory: zeros, or of a number each."""
    keys = json.loads(golden(f"full_keys/{name}.json").read_text())
    return {
        key: np.broadcast_to(np.float32(i if is_numbered else 0), shape)
        for i, (key, (shape, _)) in enumerate(keys.items())
    }
