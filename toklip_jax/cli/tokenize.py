"""The command `toklip tokenize FOLDER ids.npz`: a folder of images to ids."""

from collections.abc import Sequence

from toklip_jax.cli.folder import about_ids, rows_parser, write_folder
from toklip_jax.cli.running import run_plain
from toklip_jax.core.parser import Parser
from toklip_jax.run.folder import IDS, NPZ, PARQUET

FILE = {"what": IDS, "suffixes": (NPZ, PARQUET)}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    return rows_parser(
        "tokenize",
        "Turns a folder of images into ids. IDS.npz has the arrays `ids`, int32 [images, n] or\n"
        "[images, n, q], and `names`, the images' paths from the folder, sorted; IDS.parquet the\n"
        "columns `image_tokens`, `caption` and `name`.",
        **FILE,
    )


def _run(values) -> None:
    ids = write_folder(values, title="tokenize", method="tokenize", about=about_ids, **FILE)
    shape = " x ".join(map(str, ids.shape[1:]))
    print(f"{values.ids}: {len(ids)} images, {shape} ids each")
