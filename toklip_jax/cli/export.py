"""The command `toklip export WEIGHTS OUTPUT`: programs that run without this package."""

from collections.abc import Sequence

from toklip_jax.api.export import FUNCTIONS, PIXELS, PLATFORMS, export
from toklip_jax.api.loading import load
from toklip_jax.cli.running import plain_parser, run_plain
from toklip_jax.core.parser import Parser, file_path, positive


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def _run(args) -> None:
    options = {"dtype": args.dtype, "param_dtype": args.param_dtype}
    options |= {"image_size": args.image_size} if args.image_size else {}
    manifest = export(
        load(args.weights, **options),
        args.output,
        functions=None if args.functions is None else _names(args.functions),
        platforms=_names(args.platforms),
        images=args.images,
        source=args.weights,
    )
    for name, entry in manifest["functions"].items():
        taken, given = (_shown(entry[side]) for side in ("input", "output"))
        print(f"{name}: {taken} -> {given}")
    print(f"{args.output}: weights of {manifest['params']['bytes'] / 2**20:,.1f} MiB beside them")


def _shown(array):
    return f"{array['name']} {array['dtype']} [{', '.join(map(str, array['shape']))}]"


def _names(text):
    return [name for name in text.split(",") if name]


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = plain_parser(
        "export",
        "Writes TokLIP, or a VQ tokenizer, as programs that need jax alone to run, with the\n"
        "weights and a manifest beside them.",
    )
    found.add_argument("weights", help="weights that load takes")
    found.add_argument("output", help="a new directory", type=file_path)
    add = found.flag
    add("functions", f"those of {', '.join(FUNCTIONS)} that are written; by default all")
    add("platforms", f"those of {', '.join(PLATFORMS)} that they run on", default="cpu")
    add("images", f"the type of images that encode takes: {', '.join(PIXELS)}", default="uint8")
    add("image-size", "the side of the images in pixels, where not the weights'", type=positive)
    add("dtype", "of activations: float32, bfloat16 or float16", default="float32")
    add("param-dtype", "of the weights; int8 is that of the token encoder", default="float32")
    return found
