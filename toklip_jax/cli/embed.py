"""The command `toklip embed FOLDER features.npz`: a folder of images to their features."""

from collections.abc import Sequence

from toklip_jax.cli.folder import about_features, rows_parser, write_folder
from toklip_jax.cli.running import run_plain
from toklip_jax.core.parser import Parser
from toklip_jax.run.folder import FEATURES, NPZ

FILE = {"what": FEATURES, "suffixes": (NPZ,)}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    return rows_parser(
        "embed",
        "Turns a folder of images into normalised image features. FEATURES.npz has the arrays\n"
        "`features`, float32 [images, d], and `names`, the images' paths from the folder, sorted.\n"
        "`toklip search` and `toklip classify` take it in place of the folder.",
        **FILE,
    )


def _run(values) -> None:
    features = write_folder(
        values, title="embed", method="image_features", about=about_features, **FILE
    )
    print(f"{values.features}: {len(features)} images, {features.shape[1]} numbers each")
