"""Weights on disk: a directory that says what it holds, so that loading asks nothing.

weights/
    toklip.json          format version, model config, layout, where it came from
    params.safetensors   the parameters by slash path, in the dtypes they came in
    carried.safetensors  tensors of the PyTorch file that are no parameters, if any
    tokenizer.json       the text tokenizer, if any
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from toklip_jax.files import MappedFile, read_safetensors, write_safetensors
from toklip_jax.models.serialization import config_from_dict, config_to_dict
from toklip_jax.nn.layout import to_scanned, to_unrolled

FORMAT = 1
DESCRIPTION, PARAMS, CARRIED, TOKENIZER = (
    "toklip.json",
    "params.safetensors",
    "carried.safetensors",
    "tokenizer.json",
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model's config and parameters.

    Attributes:
        config: TokLIPConfig, TeacherConfig or a VQ tokenizer's.
        params: nested dict of arrays.
        is_scanned: whether layers are stacked.
        carried: tensors of a PyTorch file that are no parameters, by its names.
        tokenizer_path: of the text tokenizer, a `tokenizer.json`, or None.
        source: what it was converted or trained from, for people.
        file: that the parameters are views of, or None.
    """

    config: Any
    params: dict[str, Any]
    is_scanned: bool
    carried: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    tokenizer_path: pathlib.Path | None = None
    source: str = ""
    file: MappedFile | None = None

    def with_layout(self, is_scanned: bool, stack: Callable = np.stack) -> "Weights":
        """Returns the same weights with layers stacked, by `stack`, or apart."""
        if is_scanned == self.is_scanned:
            return self
        params = to_scanned(self.params, stack) if is_scanned else to_unrolled(self.params)
        return dataclasses.replace(self, params=params, is_scanned=is_scanned)


def is_weights(path: str | pathlib.Path) -> bool:
    """Tells whether `path` is a directory that `save_weights` wrote."""
    return (pathlib.Path(path) / DESCRIPTION).is_file()


def save_weights(directory: str | pathlib.Path, weights: Weights) -> None:
    """Writes a directory of weights, whole or not at all.

    Raises:
        FileExistsError: something is there already.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists():
        raise FileExistsError(
            f"expected a new directory, got {directory}, which exists: choose another name"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        write_safetensors(temporary / PARAMS, _flat(weights.params))
        if weights.carried:
            write_safetensors(temporary / CARRIED, weights.carried)
        if weights.tokenizer_path is not None:
            shutil.copyfile(weights.tokenizer_path, temporary / TOKENIZER)
        (temporary / DESCRIPTION).write_text(json.dumps(_describe(weights), indent=2) + "\n")
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_weights(directory: str | pathlib.Path) -> Weights:
    """Reads what `save_weights` wrote; parameters are read-only views of the mapped file.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no directory of weights, one of a newer format, or damaged.
    """
    directory = pathlib.Path(directory).absolute()
    if not directory.exists():
        raise FileNotFoundError(f"expected weights at {directory}, found nothing")
    if not is_weights(directory):
        raise ValueError(
            f"expected a directory with {DESCRIPTION}, got {directory}: convert a checkpoint with "
            f"`python -m toklip_jax.convert to-jax FILE OUT`"
        )
    description = _read_description(directory / DESCRIPTION)
    if description.get("format") != FORMAT:
        raise ValueError(
            f"expected weights of format {FORMAT}, got {description.get('format')} in {directory}: "
            f"they come from another version of toklip_jax"
        )
    file = _map(directory / PARAMS)
    carried, tokenizer = directory / CARRIED, directory / TOKENIZER
    return Weights(
        config=config_from_dict(description["config"]),
        params=flax.traverse_util.unflatten_dict(read_safetensors(file), sep="/"),
        is_scanned=description["is_scanned"],
        carried=read_safetensors(_map(carried)) if carried.exists() else {},
        tokenizer_path=tokenizer if tokenizer.exists() else None,
        source=description["source"],
        file=file,
    )


def fingerprint(path: str | pathlib.Path) -> str:
    """Returns the SHA-256 of weights, in hex: of a directory's parameters, or of a file's bytes.

    Raises:
        FileNotFoundError: nothing there.
    """
    path = pathlib.Path(path)
    path = path / PARAMS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"expected weights at {path}, found no file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_params(params: dict[str, Any]) -> str:
    """Returns the SHA-256, in hex, of parameters: of names, shapes and values as float32.

    Layout and type don't count: layers stacked or apart, and bfloat16 or the float32 that it
    converts to, give the same.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_flat(to_unrolled(params)).items()):
        array = np.ascontiguousarray(np.asarray(value).astype(np.float32, copy=False))
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _describe(weights):
    return {
        "format": FORMAT,
        "is_scanned": weights.is_scanned,
        "source": weights.source,
        "config": config_to_dict(weights.config),
    }


def _read_description(path):
    try:
        description = json.loads(path.read_text())
        return description if isinstance(description, dict) else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): convert the checkpoint again") from error


def _map(path):
    if not path.is_file() or not path.stat().st_size:
        raise ValueError(
            f"{path.parent} is damaged: {path.name} is missing or empty; convert the checkpoint "
            f"again"
        )
    return MappedFile(path)


def _flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")
