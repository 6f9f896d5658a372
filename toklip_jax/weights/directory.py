"""Weights on disk: a directory that says what it holds, so that loading asks nothing.

weights/
    toklip.json          format version, model config, layout, where it came from, and checksums
    params.safetensors   the parameters by slash path, in the dtypes they came in; large ones in
                         several files with an index, as `files.sharded` describes
    carried.safetensors  tensors of the PyTorch file that are no parameters, if any
    tokenizer.json       the text tokenizer, if any
    ...                  other files that belong to the weights of a family, such as a chat template
"""

import functools
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp

from toklip_jax.core.errors import AlreadyExists, NotFound, StorageFailed, UserError
from toklip_jax.core.printable import printable, printable_lines
from toklip_jax.files import (
    LazyArray,
    find_sharded,
    read_sharded,
    releasing,
    write_sharded,
)
from toklip_jax.files.sharded import MAX_SHARD_BYTES
from toklip_jax.models.registry import param_shapes
from toklip_jax.models.serialization import config_from_dict, config_to_dict
from toklip_jax.parallel.fetching import SharedReading
from toklip_jax.parallel.hosts import broadcast_from_main, is_main_host
from toklip_jax.parallel.progress import Progress
from toklip_jax.weights.base import Weights, files_beside
from toklip_jax.weights.checks import expect_finite, finite, naming
from toklip_jax.weights.description import (
    FORMAT,
    REMEDY,
    Description,
    file_digest,
    read_description,
)
from toklip_jax.weights.description import NAME as DESCRIPTION

TOKENIZER = "tokenizer.json"
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
        ValueError: a parameter is not finite; names it, and nothing is written.
        OSError: host 0 could not write; on every host.
    """
    directory = pathlib.Path(directory).absolute()
    if broadcast_from_main(directory.exists()):
        raise AlreadyExists(
            f"expected a new directory, got {directory}, which exists: choose another name"
        )
    arrays = flax.traverse_util.flatten_dict(weights.params, sep="/")
    reading = SharedReading(arrays)
    params = {
        name: finite(
            name,
            LazyArray(tuple(array.shape), array.dtype, functools.partial(reading.read, name)),
        )
        for name, array in arrays.items()
    }
    failure = ""
    try:
        if is_main_host():
            with Progress("write", len(params), unit="tensor") as progress:
                counted = releasing(params, progress.counted(weights.release))
                _write(directory, weights, counted, max_shard_bytes)
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:
        reading.finish()
        failure = broadcast_from_main(failure)
    if failure:
        raise StorageFailed(f"host 0 could not write {directory}: {failure}")


def load_weights(directory: str | pathlib.Path) -> Weights:
    """Reads what `save_weights` wrote; parameters are read-only views of the mapped files.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no directory of weights, one of a newer format, or damaged.
    """
    directory = pathlib.Path(directory).absolute()
    if not directory.exists():
        raise NotFound(f"expected weights at {directory}, found nothing")
    if not is_weights(directory):
        raise UserError(
            f"expected a directory with {DESCRIPTION}, got {directory}: {_advice(directory)}"
        )
    description = read_description(directory)
    description.expect_files(directory)
    params, file = _read(directory, PARAMS)
    config = _config(description.config, directory)
    if not (description.checksum and description.files):  # else it is what was written
        _expect_params(params, param_shapes(config, description.is_scanned), directory)
        with naming(directory):
            expect_finite(params, file.release)
    tokenizer = directory / TOKENIZER
    return Weights(
        config=config,
        params=flax.traverse_util.unflatten_dict(params, sep="/"),
        is_scanned=description.is_scanned,
        carried=_read(directory, CARRIED)[0] if find_sharded(directory, CARRIED) else {},
        tokenizer_path=tokenizer if tokenizer.exists() else None,
        source=description.source,
        training=description.training,
        file=file,
        beside=files_beside(directory, config),
    )


def _advice(directory):
    """What to name in place of a directory without weights, such as that of a run."""
    inside = [path for depth in ("*", "*/*") for path in directory.glob(f"{depth}/{DESCRIPTION}")]
    if inside:
        return f"name {' or '.join(sorted(str(path.parent) for path in inside))}"
    return "convert a checkpoint with `python -m toklip_jax.convert to-jax FILE OUT`"


def training_of(directory: str | pathlib.Path) -> Mapping[str, Any]:
    """Returns the identity of the training that made weights, without reading their parameters.

    Raises:
        ValueError: the directory's description is damaged.
    """
    return read_description(pathlib.Path(directory)).training


def _config(plain, directory):
    try:
        return config_from_dict(plain)
    except ValueError as error:
        raise UserError(
            f"{printable_lines(str(error))} (in {directory}, which may come from a newer version "
            f"of toklip_jax)"
        ) from error


def _expect_params(params, shapes, directory):
    """Raises ValueError, in one line, where parameters are not those that the config describes."""
    faults = [f"{path} is missing" for path in shapes if path not in params]
    for path, array in params.items():
        if path not in shapes:
            faults.append(f"{printable(path)} is none of the model's")
        elif array.shape != shapes[path]:
            faults.append(f"{path} is {array.shape}, expected {shapes[path]}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            faults.append(f"expected floating-point numbers, got {array.dtype} for {path}")
    if faults:
        shown = "; ".join(faults[:4]) + ("; ..." if len(faults) > 4 else "")
        raise UserError(
            f"{directory} is damaged: {len(faults)} parameters don't fit its {DESCRIPTION}: "
            f"{shown}; {REMEDY}"
        )


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
        for path in weights.beside:
            shutil.copyfile(path, temporary / path.name)
        _describe(weights, temporary).write(temporary)
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(directory, stem):
    path = find_sharded(directory, stem) or directory / f"{stem}.safetensors"
    return read_sharded(path)


def _describe(weights, directory):
    return Description(
        format=FORMAT,
        is_scanned=weights.is_scanned,
        source=weights.source,
        config=config_to_dict(weights.config),
        training=dict(weights.training),
        files={path.name: file_digest(path) for path in sorted(directory.iterdir())},
    )
