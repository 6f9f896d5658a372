"""The command `toklip app`: a local page to play with, on one's own weights."""

import argparse
import importlib

from toklip_jax.cli.command_line import quiet
from toklip_jax.core import compile_cache
from toklip_jax.core.arguments import expect_given_once
from toklip_jax.core.errors import UserError, exit_status

NEEDED = ("fastapi", "python_multipart", "uvicorn")  # the modules of the extra
LOCAL = ("127.0.0.1", "localhost", "::1")


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`).

    Args:
        arguments: without the program's name.
    """
    args = _parser().parse_args(arguments)

    def command() -> None:
        expect_given_once(arguments)
        quiet()
        _run(args)

    return exit_status(command)


def _run(args) -> None:
    _expect_extra()
    from toklip_jax import app  # needs the extra

    compile_cache.enable()
    limits = app.Limits(args.max_upload_mb, args.max_files)
    listener = app.listening(args.host, args.port)
    models = app.load_models(
        args.weights,
        args.generator,
        args.model,
        tokenizer=args.tokenizer,
        image_size=args.image_size,
    )
    print("compiling what the page needs ...", flush=True)
    page = app.build(
        models,
        host=args.host,
        limits=limits,
        folder=args.folder,
        class_names=args.class_names,
    )
    host = f"[{args.host}]" if ":" in args.host else args.host
    if args.host not in LOCAL:
        print(f"reached from other machines too, by whoever can reach {host}")
    print(f"http://{host}:{listener.getsockname()[1]} (Ctrl-C stops it)", flush=True)
    try:
        app.serve(page, listener)
    except KeyboardInterrupt:
        print()


def _expect_extra():
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"expected the package {error.name} for the app, found none: "
                f"pip install 'toklip_jax[app]'"
            ) from error


def _parser():
    parser = argparse.ArgumentParser(
        prog="toklip app",
        description="Serves a page on this machine: see a picture's ids, change them, and watch "
        "what they mean; draw pictures and ask questions. It needs no network.",
    )

    def add(name, help, **options):
        flags = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        parser.add_argument(*flags, dest=name, help=help, **options)

    add("weights", "TokLIP's, or a VQ tokenizer's: a file or a directory", required=True)
    add("generator", "an image generator's, for drawing and completing")
    add("class_names", "a file with a name a line, of the generator's classes", default="")
    add("model", "a multimodal model's, for questions")
    add("tokenizer", "TokLIP's text tokenizer, where its weights hold none")
    add("image_size", "side of the images; a VQ tokenizer alone needs it", type=int)
    add("folder", "pictures that the page starts with", default="")
    add("host", "where it listens; 0.0.0.0 is every address", default="127.0.0.1")
    add("port", "its port; 0 for any that is free", type=int, default=8017)
    add("max_upload_mb", "megabytes of one upload", type=int, default=32)
    add("max_files", "pictures that the page holds", type=int, default=200)
    return parser
