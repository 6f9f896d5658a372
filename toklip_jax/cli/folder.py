"""What the commands on folders of images share: their flags, and the model that these load."""

import argparse
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from toklip_jax.api.loading import load
from toklip_jax.cli.running import plain_parser
from toklip_jax.core.errors import UserError
from toklip_jax.core.parser import Parser, file_path, positive
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES
from toklip_jax.parallel.sharding import local_mesh
from toklip_jax.run.folder import Rows, expect_new, expect_suffix, map_folder, write_rows
from toklip_jax.weights.fingerprints import fingerprint_params

BATCH_SIZE = 32


def model_parser(name: str, about: str) -> Parser:
    """Returns the parser of a command that loads a model."""
    found = plain_parser(name, about)
    found.flag("weights", "what toklip_jax.load takes: a file, or a directory", required=True)
    found.flag("batch-size", "images at a time", type=positive, default=BATCH_SIZE)
    found.flag("dtype", "of the computation: float32 or bfloat16", default="float32")
    return found


def folder_parser(name: str, about: str) -> Parser:
    """Returns the parser of a command that turns a folder's images into something."""
    found = model_parser(name, about)
    found.add_argument("folder", type=file_path, help="a folder of images, at any depth")
    found.flag("image-size", "the images' side in pixels; by default the model's", type=positive)
    found.flag("resize", "how images are resized", choices=tuple(RESIZES), default=DEFAULT_RESIZE)
    return found


def rows_parser(name: str, about: str, *, what: str, suffixes: Sequence[str]) -> Parser:
    """Returns the parser of a command that writes a row for each of a folder's images.

    Args:
        what: the rows' name, `IDS` or `FEATURES`, and the name of the argument for their file.
        suffixes: those that the file may have.
    """
    found = folder_parser(name, about)
    found.add_argument(what, type=file_path, help=f"the new file, {' or '.join(suffixes)}")
    found.switch("overwrite", "replace the file")
    return found


def text_parser(name: str, about: str) -> Parser:
    """Returns the parser of a command that compares a folder's images with texts."""
    found = folder_parser(name, about)
    found.flag("tokenizer", "the text tokenizer, where the weights hold none")
    return found


def load_model(values: argparse.Namespace, method: str, **options: Any) -> Any:
    """Loads the model of the flags.

    Args:
        method: a method that it must have.

    Raises:
        ValueError: it has none, or there are several processes.
    """
    if jax.process_count() > 1:
        raise UserError(
            f"expected one process for a folder of images, got {jax.process_count()}: start it "
            f"alone, or use `toklip encode`, which shares its work among hosts"
        )
    for name in ("image_size", "tokenizer", "resize"):
        if (given := getattr(values, name, None)) is not None:
            options[name] = given
    model = load(
        values.weights,
        dtype=values.dtype,
        batch_size=values.batch_size,
        mesh=local_mesh(),
        **options,
    )
    if not hasattr(model, method):
        what = "a VQ tokenizer or TokLIP" if method in ("tokenize", "detokenize") else "TokLIP"
        raise UserError(f"expected the weights of {what} in --weights, got {model!r}")
    return model


def model_image_size(model: Any) -> tuple[int, ...] | None:
    """Returns (height, width) of a loaded model's images, or None if it takes several sizes."""
    if vision := getattr(model.config, "vision", None):
        return vision.size
    return getattr(model, "image_size", None)


def reading(values: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Returns how the images of a folder are read: arguments of `map_folder`."""
    size = model_image_size(model)
    if size is None:
        raise UserError(
            f"expected --image-size with a VQ tokenizer, which takes several, got none for "
            f"{values.weights}: set it"
        )
    return {"image_size": size, "batch_size": values.batch_size, "resize": values.resize}


def write_folder(
    values: argparse.Namespace,
    *,
    title: str,
    method: str,
    what: str,
    suffixes: Sequence[str],
    about: Callable[[argparse.Namespace, Any], dict[str, Any]],
) -> np.ndarray:
    """Writes what a model makes of each of a folder's images, and returns these rows.

    Args:
        values: what the parser of `rows_parser` read.
        title: of the progress bar.
        method: the model's, of images.
        what: `IDS` or `FEATURES`.
        suffixes: those that the file may have.
        about: `about_ids` or `about_features`, what the file says of them.
    """
    output = getattr(values, what)
    expect_suffix(output, suffixes)
    expect_new(output, values.overwrite)
    model = load_model(values, method)
    names, rows = map_folder(
        values.folder, getattr(model, method), title=title, **reading(values, model)
    )
    write_rows(output, what, Rows(names, rows, about(values, model)))
    return rows


def about_ids(values: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Returns what a file of ids says of them."""
    vq = getattr(model.config, "vq", model.config)
    size = model_image_size(model)
    return {
        **_made_by(values),
        "vq_sha256": fingerprint_params(model.params.get("vq", model.params)),
        "image_size": list(size),
        "grid": list(vq.grid_of(*size)),
        "codes_per_place": vq.codes_per_place,
        "codebook_sizes": list(vq.codebook_sizes),
    }


def about_features(values: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Returns what a file of features says of them."""
    return {**_made_by(values), "sha256": fingerprint_params(model.params)}


def _made_by(values):
    """What every file says of the command that wrote it."""
    version = importlib.metadata.version("toklip_jax")
    return {"toklip_jax": version, "weights": values.weights, "resize": values.resize}
