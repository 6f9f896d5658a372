"""Fingerprints by which weights are recognised."""

import hashlib
import pathlib
from typing import Any

import flax.traverse_util
import numpy as np

from toklip_jax.core.errors import NotFound
from toklip_jax.files import find_sharded, is_index, read_sharded
from toklip_jax.nn.layout import to_unrolled
from toklip_jax.parallel.fetching import fetch
from toklip_jax.weights.checkpoint_file import holds_checkpoint, read_checkpoint
from toklip_jax.weights.description import file_digest
from toklip_jax.weights.directory import PARAMS, is_weights


def fingerprint(path: str | pathlib.Path) -> str:
    """Returns the SHA-256 of weights, in hex: of a directory's parameters, or of a file's bytes.

    Where parameters are in several files, it is that of the files' digests in their order. The
    directory may be a converted one, or one that `read_checkpoint` takes.

    Raises:
        FileNotFoundError: nothing there.
    """
    path = pathlib.Path(path)
    found = path
    if path.is_dir():
        is_foreign = not is_weights(path) and holds_checkpoint(path)
        found = read_checkpoint(path).file.path if is_foreign else find_sharded(path, PARAMS)
    if found is None or not found.is_file():
        raise NotFound(f"expected weights at {path}, found no file")
    if not is_index(found):
        return file_digest(found)
    digests = [bytes.fromhex(file_digest(shard.path)) for shard in read_sharded(found)[1].files]
    return hashlib.sha256(b"".join(digests)).hexdigest()


def fingerprint_params(params: dict[str, Any]) -> str:
    """Returns the SHA-256, in hex, of parameters: of names, shapes and values as float32.

    Layout and type don't count: layers stacked or apart, and bfloat16 or the float32 that it
    converts to, give the same. Where parameters are sharded over several hosts, all must call it.
    """
    digest = hashlib.sha256()
    flat = flax.traverse_util.flatten_dict(to_unrolled(params), sep="/")
    for name, value in sorted(flat.items()):
        array = np.ascontiguousarray(fetch(value).astype(np.float32, copy=False))
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
