"""Named arrays into files of PyTorch's world; never over an existing one."""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from toklip_jax.files import AnyLazy, write_safetensors


def write_checkpoint(
    path: str | pathlib.Path,
    tensors: Mapping[str, AnyLazy],
    release: Callable[[], None] = lambda: None,
) -> None:
    """Writes `.safetensors`, or `.pt` where torch is installed; whole or not at all.

    Args:
        release: called after each tensor is made for `.pt`, of which torch needs all in memory: to
            let go of what making it read.

    Raises:
        FileExistsError: `path` exists.
        ValueError: another ending, or `.pt` without torch.
    """
    path = pathlib.Path(path)
    writers = {
        ".safetensors": write_safetensors,
        ".pt": functools.partial(_write_torch, release=release),
    }
    if path.suffix not in writers:
        raise ValueError(f"expected a path ending in {' or '.join(writers)}, got {path}")
    if path.exists():
        raise FileExistsError(f"expected a new file, got {path}, which exists: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writers[path.suffix](temporary, tensors)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_torch(path, tensors, release):
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            "expected torch to write .pt, and it is not installed: "
            "pip install 'toklip_jax[torch]', or write .safetensors"
        ) from error
    made = {}
    for name, array in tensors.items():
        made[name] = _to_torch(torch, array)
        release()
    torch.save(made, path)


def _to_torch(torch, array):
    array = np.array(array, order="C")  # a copy: torch wants it writable
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
