"""Weights on disk: a directory that says what it holds, so that loading asks nothing.

weights/
    toklip.json          format version, model config, layout, where it came from
    params.safetensors   the parameters by slash path, in the dtypes they came in; large ones in
                         several files with an index, as `files.sharded` describes
    carried.safetensors  tensors of the PyTorch file that are no parameters, if any
    tokenizer.json       the text tokenizer, if any
"""

import functools
import json
import os
import pathlib
import shutil
from typing import Any

import flax.traverse_util

from toklip_jax.files import (
    LazyArray,
    find_sharded,
    read_sharded,
    releasing,
    write_sharded,
)
from toklip_jax.files.sharded import MAX_SHARD_BYTES
from toklip_jax.models.serialization import config_from_dict, config_to_dict
from toklip_jax.parallel.fetching import SharedReading
from toklip_jax.parallel.hosts import broadcast_from_main, is_main_host
from toklip_jax.weights.base import Weights

FORMAT = 1
DESCRIPTION, TOKENIZER = "toklip.json", "tokenizer.json"
PARAMS, CARRIED = "params", "carried"  # stems of safetensors files


def is_weights(path: str | pathlib.Path) -> bool:
    """Tells whether `path` is a directory that `save_weights` wrote."""
    return (pathlib.Path(path) / DESCRIPTION).is_file()


def save_weights(
    directory: str | pathlib.Path, weights: Weights, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes a directory of weights, whole or not at all; every host of a program must call it.

    Arrays are fetched one by one, so that no host ever holds a whole model; all hosts take part in
    the fetching of those that are sharded over several, and host 0 alone writes.

    Args:
        max_shard_bytes: parameters of more are split over several files.

    Raises:
        FileExistsError: something is there already.
        OSError: host 0 could not write; on every host.
    """
    directory = pathlib.Path(directory).absolute()
    if broadcast_from_main(directory.exists()):
        raise FileExistsError(
            f"expected a new directory, got {directory}, which exists: choose another name"
        )
    arrays = flax.traverse_util.flatten_dict(weights.params, sep="/")
    reading = SharedReading(arrays)
    params = {
        name: LazyArray(tuple(array.shape), array.dtype, functools.partial(reading.read, name))
        for name, array in arrays.items()
    }
    failure = ""
    try:
        if is_main_host():
            _write(directory, weights, releasing(params, weights.release), max_shard_bytes)
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:
        reading.finish()
        failure = broadcast_from_main(failure)
    if failure:
        raise OSError(f"host 0 could not write {directory}: {failure}")


def load_weights(directory: str | pathlib.Path) -> Weights:
    """Reads what `save_weights` wrote; parameters are read-only views of the mapped files.

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
    params, file = _read(directory, PARAMS)
    tokenizer = directory / TOKENIZER
    return Weights(
        config=_config(description["config"], directory),
        params=flax.traverse_util.unflatten_dict(params, sep="/"),
        is_scanned=description["is_scanned"],
        carried=_read(directory, CARRIED)[0] if find_sharded(directory, CARRIED) else {},
        tokenizer_path=tokenizer if tokenizer.exists() else None,
        source=description["source"],
        training=description.get("training", {}),
        file=file,
    )


def training_of(directory: str | pathlib.Path) -> dict[str, Any]:
    """Returns the identity of the training that made weights, without reading their parameters.

    Raises:
        ValueError: the directory's description is damaged.
    """
    return _read_description(pathlib.Path(directory) / DESCRIPTION).get("training", {})


def _config(plain, directory):
    try:
        return config_from_dict(plain)
    except ValueError as error:
        raise ValueError(
            f"{error} (in {directory}, which may come from a newer version of toklip_jax)"
        ) from error


def _write(directory, weights, params, max_shard_bytes):
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        write_sharded(temporary, PARAMS, params, max_shard_bytes)
        if weights.carried:
            write_sharded(temporary, CARRIED, weights.carried, max_shard_bytes)
        if weights.tokenizer_path is not None:
            shutil.copyfile(weights.tokenizer_path, temporary / TOKENIZER)
        (temporary / DESCRIPTION).write_text(json.dumps(_describe(weights), indent=2) + "\n")
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(directory, stem):
    path = find_sharded(directory, stem) or directory / f"{stem}.safetensors"
    return read_sharded(path)


def _describe(weights):
    description = {
        "format": FORMAT,
        "is_scanned": weights.is_scanned,
        "source": weights.source,
        "config": config_to_dict(weights.config),
    }
    return description | ({"training": dict(weights.training)} if weights.training else {})


def _read_description(path):
    try:
        description = json.loads(path.read_text())
        return description if isinstance(description, dict) else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): convert the checkpoint again") from error
