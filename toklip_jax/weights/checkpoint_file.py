"""PyTorch's checkpoints as named arrays, whatever files, containers and prefixes they come in."""

import dataclasses
import pathlib
import re
import tarfile
from typing import Any

import numpy as np

from toklip_jax.files import AnyMapped, MappedFile, is_index, read_sharded
from toklip_jax.files.torch_legacy import is_legacy, read_torch_legacy
from toklip_jax.files.torch_zip import Inert, is_zip, read_torch_zip

# Where training scripts keep the weights, the one to prefer first.
CONTAINERS = ("ema", "model_ema", "state_dict", "model", "model_state_dict", "module")
PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")  # of DistributedDataParallel, torch.compile
RESAVE = (
    "python -c \"import torch; torch.save(torch.load('{name}', weights_only=True), 'resaved.pt')\""
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Named arrays, read-only views of the mapped file or files.

    Attributes:
        format: "safetensors" or "torch".
        dropped: reasons for leaving tensors aside, by name.
    """

    file: AnyMapped
    format: str
    tensors: dict[str, np.ndarray]
    dropped: dict[str, str]


def read_checkpoint(path: str | pathlib.Path) -> Checkpoint:
    """Reads a `.safetensors` file or one of `torch.save`; the content decides, not the name.

    The weights are taken out of their container (`state_dict`, `model`, `ema`, ...), the prefixes
    of wrappers are taken off their names, and what is no weight is left aside, as `dropped` tells.

    Args:
        path: the path of the file; where safetensors files have an index, of the index, or of the
            directory that holds it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, cut off, damaged, unsafe, or of another format; says which.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a checkpoint at {path}, found nothing")
    if path.is_dir():
        path = _file_of(path)
    if path.stat().st_size < 16:
        raise ValueError(f"expected a checkpoint, got {path.stat().st_size} bytes in {path}")
    tree, kind, file = _read(path)
    tensors, dropped = _select(tree, path)
    return Checkpoint(file, kind, tensors, dropped)


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
    raise ValueError(
        f"expected one index or one .safetensors file in the directory {directory}, got "
        f"{', '.join(path.name for path in found[:4]) or 'none'}: pass the path of a file"
    )


def _read(path):
    if is_zip(path):
        return read_torch_zip(file := MappedFile(path)), "torch", file
    if is_legacy(path):
        return read_torch_legacy(file := MappedFile(path)), "torch", file
    if not is_index(path):
        _refuse_others(path)
    tensors, file = read_sharded(path)
    return tensors, "safetensors", file


def _refuse_others(path):
    with path.open("rb") as file:
        head = file.read(512)
    resave = RESAVE.format(name=path)
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or tarfile.is_tarfile(path):
        raise ValueError(
            f"{path} is a plain pickle or an early torch's tar, which can't be read safely here: "
            f"where torch is installed, run {resave}"
        )
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull`")
    if int.from_bytes(head[:8], "little") > path.stat().st_size or head[8:9] != b"{":
        raise ValueError(
            f"expected a .safetensors file or one of torch.save, got something else or a file cut "
            f"off: {path} begins with {head[:8]!r}"
        )


def _select(tree: Any, path):
    """Returns the arrays of the innermost container of weights, and what lay beside them."""
    dropped = {}
    prefix = ""
    while isinstance(tree, dict) and not _holds_arrays(tree):
        name = next((n for n in CONTAINERS if isinstance(tree.get(n), dict)), None)
        if name is None:
            break
        for other in tree:
            if other != name:
                dropped[f"{prefix}{other}"] = f"beside the weights, which are in {prefix}{name}"
        tree, prefix = tree[name], f"{prefix}{name}."
    if not isinstance(tree, dict) or not _holds_arrays(tree):
        raise ValueError(f"expected named tensors in {path}, found none")
    tensors = {}
    for key, value in tree.items():
        if isinstance(value, np.ndarray):
            name = PREFIXES.sub("", str(key))
            if name in tensors:
                raise ValueError(f"expected each tensor once in {path}, got {name} twice")
            tensors[name] = value
        else:
            kind = value.name if isinstance(value, Inert) else type(value).__name__
            dropped[f"{prefix}{key}"] = f"no tensor ({kind})"
    return tensors, dropped


def _holds_arrays(tree):
    return any(isinstance(value, np.ndarray) for value in tree.values())
