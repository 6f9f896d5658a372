"""The command `toklip decode ids.npz OUT`: ids to images."""

from collections.abc import Sequence

import numpy as np

from toklip_jax.api.vq_tokenizer import VQTokenizer
from toklip_jax.cli.folder import load_model, model_parser
from toklip_jax.cli.running import run_plain
from toklip_jax.core.parser import Parser, file_path
from toklip_jax.run.folder import IDS, expect_same, read_rows, write_images
from toklip_jax.weights.fingerprints import fingerprint_params


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = model_parser(
        "decode", "Turns the ids that `toklip tokenize` wrote into PNG images of the same names."
    )
    found.add_argument("ids", type=file_path, help="the file of ids, .npz or .parquet")
    found.add_argument("out", type=file_path, help="the folder of the images")
    found.switch("overwrite", "replace images that are there")
    return found


def _run(values) -> None:
    rows = read_rows(values.ids, IDS)
    model = load_model(values, "detokenize")
    vq = fingerprint_params(model.params.get("vq", model.params))
    expect_same(rows, {"vq_sha256": vq}, values.ids)
    grid = {"grid": tuple(rows.about["grid"])} if isinstance(model, VQTokenizer) else {}
    paths = write_images(
        values.out,
        rows,
        lambda ids: np.asarray(model.detokenize(ids, **grid)),
        batch_size=values.batch_size,
        overwrites=values.overwrite,
    )
    print(f"{values.out}: {len(paths)} images")
