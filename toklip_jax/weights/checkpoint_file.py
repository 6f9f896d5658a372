"""Checkpoints of other packages as named arrays, whatever files they come in."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from toklip_jax.core.errors import NotFound, UserError
from toklip_jax.core.printable import printable
from toklip_jax.core.whole_files import read_object
from toklip_jax.files import AnyLazy, AnyMapped, MappedFile, is_index, read_sharded
from toklip_jax.files.npz import is_npz, read_npz
from toklip_jax.files.stored_zip import is_zip
from toklip_jax.files.torch_legacy import is_legacy, read_torch_legacy
from toklip_jax.files.torch_zip import one_clear_error, read_torch_zip
from toklip_jax.weights.containers import find_weights

SETTINGS = "config.json"  # transformers' name
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
TAR_MAGIC = slice(257, 262)  # of a tar's first header
RESAVE = (
    "python -c \"import torch; torch.save(torch.load('{name}', weights_only=True), 'resaved.pt')\""
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Named arrays, read-only views of the mapped file or files, or made of them when read.

    Attributes:
        format: "safetensors", "torch" or "npz".
        tensors: the weights.
        dropped: reasons for leaving tensors aside, by name.
        taken: where in the file the weights were, "" where they are all there is.
        is_choice: whether the file has a running mean and the raw weights, and the caller named
            neither.
        is_mean: whether the running mean was taken.
    """

    file: AnyMapped
    format: str
    tensors: Mapping[str, AnyLazy]
    dropped: dict[str, str]
    taken: str = ""
    is_choice: bool = False
    is_mean: bool = False

    def settings(self) -> dict[str, Any]:
        """Returns the object in the `config.json` beside the file, {} where there is none.

        Raises:
            ValueError: it is damaged.
        """
        path = self.file.path.parent / SETTINGS
        return read_object(path, "fetch it again") if path.is_file() else {}


def read_checkpoint(
    path: str | pathlib.Path, is_ema: bool | None = None, prefers_mean: bool = True
) -> Checkpoint:
    """Reads a `.safetensors` file, one of `torch.save`, or `.npz`; the content decides which.

    The weights are taken out of their container (`state_dict`, `model`, `ema`, ...), the prefixes
    of wrappers are taken off their names, and what is not a weight is ignored, as `dropped` tells.

    Args:
        path: the path of the file; where safetensors files have an index, of the index, or of the
            directory that holds it.
        is_ema: whether to take the running mean of the weights, or the raw ones; None takes the
            running mean where there is one of the whole model, and the raw weights of a model of
            whose part alone there is one.
        prefers_mean: False takes the raw weights where there are both and `is_ema` is None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, cut off, damaged, unsafe, of another format, or without the weights that
            `is_ema` asks for; says which.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise NotFound(
            f"expected a checkpoint at {path}, found nothing: check the path, or pass `load` a "
            f"name of toklip_jax.list_models()"
        )
    if path.is_dir():
        path = _file_of(path)
    if path.stat().st_size < 16:
        raise UserError(f"expected a checkpoint, got {path.stat().st_size} bytes in {path}")
    tree, kind, file = _read(path)
    found = find_weights(tree, path, is_ema, prefers_mean)
    return Checkpoint(
        file,
        kind,
        found.tensors,
        found.dropped,
        taken=found.taken,
        is_choice=found.is_choice,
        is_mean=found.is_mean,
    )


def holds_checkpoint(directory: str | pathlib.Path) -> bool:
    """Tells whether a directory holds safetensors files, with an index or without."""
    return bool(_candidates(pathlib.Path(directory)))


def _candidates(directory):
    """The indices in a directory, or its safetensors files where there are none."""
    indices = sorted(directory.glob("*.safetensors.index.json"))
    return indices or sorted(directory.glob("*.safetensors"))


def _file_of(directory):
    found = _candidates(directory)
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"expected one index or one .safetensors file in the directory {directory}, got "
        f"{', '.join(printable(path.name) for path in found[:4]) or 'none'}: pass the path of a "
        f"file"
    )


def _read(path):
    if is_npz(path):
        with one_clear_error(path):
            return read_npz(file := MappedFile(path)), "npz", file
    if is_zip(path):
        return read_torch_zip(file := MappedFile(path)), "torch", file
    if is_legacy(path):
        return read_torch_legacy(file := MappedFile(path)), "torch", file
    if not is_index(path):
        _refuse_others(path)
    tensors, file = read_sharded(path)
    return tensors, "safetensors", file


def _refuse_others(path):
    """Raises ValueError for a file that is no safetensors; its first bytes alone tell which."""
    with path.open("rb") as file:
        head = file.read(512)
    resave = RESAVE.format(name=path)
    if head.startswith(PICKLES) or head[TAR_MAGIC] == b"ustar":
        raise UserError(
            f"{path} is a plain pickle or an early torch's tar, which can't be read safely here: "
            f"where torch is installed, run {resave}"
        )
    if kind := next((k for magic, k in COMPRESSED.items() if head.startswith(magic)), None):
        raise UserError(f"{path} is compressed by {kind}: decompress it, and pass what was in it")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull`")
    if int.from_bytes(head[:8], "little") > path.stat().st_size or head[8:9] != b"{":
        raise UserError(
            f"expected a .safetensors file, one of torch.save, or .npz, got something else or a "
            f"file cut off: {path} begins with {head[:8]!r}"
        )
