"""Weights as a directory that transformers reads.

directory/
    config.json                what the family's `Settings` writes
    model.safetensors          the tensors, by PyTorch's names; large ones in several files with an
                               index, as `files.sharded` describes
    tokenizer.json, ...        the other files that belong to the weights
"""

import os
import pathlib
import shutil

from toklip_jax.core.errors import AlreadyExists, UserError
from toklip_jax.core.whole_files import read_object, write_json
from toklip_jax.files import releasing, write_sharded
from toklip_jax.files.sharded import MAX_SHARD_BYTES
from toklip_jax.models.registry import family_of
from toklip_jax.weights.base import Weights
from toklip_jax.weights.checkpoint_file import SETTINGS
from toklip_jax.weights.conversion import export_tensors

STEM = "model"
FORMAT = {"format": "pt"}  # transformers 4 refuses safetensors that don't say so


def has_settings(weights: Weights) -> bool:
    """Tells whether a family's weights can be written as a directory with a `config.json`."""
    keys = family_of(weights.config).keys
    return keys is not None and keys.settings is not None


def write_hugging_face(
    directory: str | pathlib.Path, weights: Weights, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes a directory, whole or not at all; each tensor is made, written and let go.

    A `config.json` beside the weights is kept where it describes this model: it may say more, such
    as the id that ends an answer.

    Args:
        max_shard_bytes: tensors of more are split over several files.

    Raises:
        FileExistsError: something is there already.
        ValueError: a family without a `config.json`, or a parameter that is not finite.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists():
        raise AlreadyExists(
            f"expected a new directory, got {directory}, which exists: choose another name"
        )
    if not has_settings(weights):
        title = family_of(weights.config).title
        raise UserError(f"expected weights of a family with a config.json, got those of {title}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    try:
        temporary.mkdir()
        tensors = releasing(export_tensors(weights), weights.release)
        write_sharded(temporary, STEM, tensors, max_shard_bytes, FORMAT)
        for path in weights.beside:
            shutil.copyfile(path, temporary / path.name)
        write_json(temporary / SETTINGS, _settings(weights))
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _settings(weights):
    """The object of the `config.json` beside the weights, or of a new one."""
    family = family_of(weights.config)
    settings = family.keys.settings
    kept = next((p for p in weights.beside if p.name == SETTINGS), None)
    found = read_object(kept, "fetch it again") if kept else {}
    is_same = found.get("model_type") in settings.kinds and settings.read(found) == weights.config
    return found if is_same else settings.write(weights.config)
