"""Writes named arrays to files that PyTorch reads; never over an existing one."""

import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from toklip_jax.core.errors import AlreadyExists, UserError
from toklip_jax.core.imports import import_extra
from toklip_jax.files import AnyLazy, releasing, write_safetensors
from toklip_jax.parallel.progress import Progress


def write_checkpoint(
    path: str | pathlib.Path,
    tensors: Mapping[str, AnyLazy],
    release: Callable[[], None] = lambda: None,
) -> None:
    """Writes `.safetensors`, or `.pt` where torch is installed; whole or not at all.

    Args:
        release: called before each tensor is made, to let go of what making the last one read.

    Raises:
        FileExistsError: `path` exists.
        ValueError: another ending, or `.pt` without torch.
    """
    path = pathlib.Path(path)
    writers = {".safetensors": write_safetensors, ".pt": _write_torch}
    if path.suffix not in writers:
        raise UserError(f"expected a path ending in {' or '.join(writers)}, got {path}")
    if path.exists():
        raise AlreadyExists(f"expected a new file, got {path}, which exists: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with Progress("write", len(tensors), unit="tensor") as progress:
            writers[path.suffix](temporary, releasing(tensors, progress.counted(release)))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_torch(path, tensors):
    torch = import_extra("torch")
    torch.save({name: _to_torch(torch, array) for name, array in tensors.items()}, path)


def _to_torch(torch, array):
    array = np.array(array, order="C")  # a copy: torch wants it writable
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
