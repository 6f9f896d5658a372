"""The command `toklip embed FOLDER features.npz`: a folder of images to their features."""

from collections.abc import Sequence

from toklip_jax.cli.folder import folder_parser, load_model, made_by, reading
from toklip_jax.cli.running import run_plain
from toklip_jax.core.home import expand_user
from toklip_jax.core.parser import Parser
from toklip_jax.run.folder import (
    FEATURES,
    NPZ,
    Rows,
    expect_new,
    expect_suffix,
    map_folder,
    write_rows,
)
from toklip_jax.weights.fingerprints import fingerprint_params


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = folder_parser(
        "embed",
        "Turns a folder of images into normalised image features. FEATURES.npz has the arrays\n"
        "`features`, float32 [images, d], and `names`, the images' paths from the folder, sorted.\n"
        "`toklip search` and `toklip classify` take it in place of the folder.",
    )
    found.add_argument("features", type=expand_user, help="the new file, .npz")
    found.switch("overwrite", "replace the file")
    return found


def _run(values) -> None:
    expect_suffix(values.features, (NPZ,))
    expect_new(values.features, values.overwrite)
    model = load_model(values, "image_features")
    names, features = map_folder(
        values.folder, model.image_features, title="embed", **reading(values, model)
    )
    about = {**made_by(values), "sha256": fingerprint_params(model.params)}
    write_rows(values.features, FEATURES, Rows(names, features, about))
    print(f"{values.features}: {len(names)} images, {features.shape[1]} numbers each")
