"""Weights on disk: a directory that says what it holds, so that loading asks nothing.

weights/
    toklip.json          format version, model config, layout, where it came from
    params/              the parameters, by Orbax, in the dtypes they came in
    carried.safetensors  tensors of the PyTorch file that are no parameters, if any
    tokenizer.json       the text tokenizer, if any
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import load_file, save_file

from toklip_jax.models.layout import to_scanned, to_unrolled
from toklip_jax.models.serialization import config_from_dict, config_to_dict

FORMAT = 1
DESCRIPTION, PARAMS, CARRIED, TOKENIZER = (
    "toklip.json",
    "params",
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
    """

    config: Any
    params: dict[str, Any]
    is_scanned: bool
    carried: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    tokenizer_path: pathlib.Path | None = None
    source: str = ""

    def with_layout(self, is_scanned: bool) -> "Weights":
        """Returns the same weights with layers stacked or apart."""
        if is_scanned == self.is_scanned:
            return self
        change = to_scanned if is_scanned else to_unrolled
        return dataclasses.replace(self, params=change(self.params), is_scanned=is_scanned)


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
        _save_params(temporary / PARAMS, weights.params)
        if weights.carried:
            arrays = {name: np.ascontiguousarray(x) for name, x in weights.carried.items()}
            save_file(arrays, temporary / CARRIED)
        if weights.tokenizer_path is not None:
            shutil.copyfile(weights.tokenizer_path, temporary / TOKENIZER)
        (temporary / DESCRIPTION).write_text(json.dumps(_describe(weights), indent=2) + "\n")
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_weights(directory: str | pathlib.Path) -> Weights:
    """Reads what `save_weights` wrote; parameters are numpy arrays in the dtypes saved.

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
    description = json.loads((directory / DESCRIPTION).read_text())
    if description.get("format") != FORMAT:
        raise ValueError(
            f"expected weights of format {FORMAT}, got {description.get('format')} in {directory}: "
            f"they come from another version of toklip_jax"
        )
    params = _load_params(directory, description["dtypes"])
    carried, tokenizer = directory / CARRIED, directory / TOKENIZER
    return Weights(
        config=config_from_dict(description["config"]),
        params=params,
        is_scanned=description["is_scanned"],
        carried=load_file(carried) if carried.exists() else {},
        tokenizer_path=tokenizer if tokenizer.exists() else None,
        source=description["source"],
    )


def _describe(weights):
    return {
        "format": FORMAT,
        "is_scanned": weights.is_scanned,
        "source": weights.source,
        "config": config_to_dict(weights.config),
        "dtypes": {name: str(x.dtype) for name, x in _flat(weights.params).items()},
    }


def _save_params(path, params):
    # One array at a time: the arrays may be views of a mapped file larger than memory is free.
    handler = ocp.PyTreeCheckpointHandler(save_concurrent_gb=1)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(params))


def _load_params(directory, dtypes):
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(directory / PARAMS).item_metadata.tree
            args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            params = checkpointer.restore(
                directory / PARAMS, args=ocp.args.PyTreeRestore(restore_args=args)
            )
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        raise ValueError(
            f"{directory} is damaged: its parameters can't be read ({type(error).__name__}); "
            f"convert the checkpoint again"
        ) from error
    found = {name: str(x.dtype) for name, x in _flat(params).items()}
    if found != dtypes:
        differ = sorted(n for n in found.keys() | dtypes if found.get(n) != dtypes.get(n))
        raise ValueError(
            f"{directory} is damaged: {', '.join(differ[:5])} differ from {DESCRIPTION}"
        )
    return params


def _flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")
