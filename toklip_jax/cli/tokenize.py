"""The command `toklip tokenize FOLDER ids.npz`: a folder of images to ids."""

from collections.abc import Sequence

from toklip_jax.cli.folder import about, folder_parser, load_model, reading
from toklip_jax.cli.running import run_plain
from toklip_jax.core.home import expand_user
from toklip_jax.core.parser import Parser
from toklip_jax.run.folder import (
    IDS,
    NPZ,
    PARQUET,
    Rows,
    expect_new,
    expect_suffix,
    map_folder,
    write_rows,
)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = folder_parser(
        "tokenize",
        "Turns a folder of images into ids. IDS.npz has the arrays `ids`, int32 [images, n] or\n"
        "[images, n, q], and `names`, the images' paths from the folder, sorted; IDS.parquet the\n"
        "columns `image_tokens`, `caption` and `name`.",
    )
    found.add_argument("ids", type=expand_user, help="the new file, .npz or .parquet")
    found.switch("overwrite", "replace the file")
    return found


def _run(values) -> None:
    expect_suffix(values.ids, (NPZ, PARQUET))
    expect_new(values.ids, values.overwrite)
    model = load_model(values, "tokenize")
    names, ids = map_folder(
        values.folder, model.tokenize, title="tokenize", **reading(values, model)
    )
    write_rows(values.ids, IDS, Rows(names, ids, about(values, model)))
    shape = " x ".join(map(str, ids.shape[1:]))
    print(f"{values.ids}: {len(names)} images, {shape} ids each")
