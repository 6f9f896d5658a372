"""The command `toklip export WEIGHTS OUTPUT`: programs that run without this package."""

import argparse

from toklip_jax.api.export import FUNCTIONS, PIXELS, PLATFORMS, export
from toklip_jax.api.loading import load
from toklip_jax.core.arguments import expect_given_once
from toklip_jax.core.errors import exit_status


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`).

    Args:
        arguments: without the program's name.
    """
    args = _parser().parse_args(arguments)

    def command() -> None:
        expect_given_once(arguments)
        _run(args)

    return exit_status(command)


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


def _parser():
    parser = argparse.ArgumentParser(
        prog="toklip export",
        description="Writes TokLIP, or a VQ tokenizer, as programs that need jax alone to run, "
        "with the weights and a manifest beside them.",
    )

    def add(name, help, **options):
        flags = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        parser.add_argument(*flags, dest=name, help=help, **options)

    parser.add_argument("weights", help="weights that load takes")
    parser.add_argument("output", help="a new directory")
    add("functions", f"those of {', '.join(FUNCTIONS)} that are written; by default all")
    add("platforms", f"those of {', '.join(PLATFORMS)} that they run on", default="cpu")
    add("images", f"the type of images that encode takes: {', '.join(PIXELS)}", default="uint8")
    add("image_size", "the side of the images in pixels, where not the weights'", type=int)
    add("dtype", "of activations: float32, bfloat16 or float16", default="float32")
    add("param_dtype", "of the weights; int8 is that of the token encoder", default="float32")
    return parser
