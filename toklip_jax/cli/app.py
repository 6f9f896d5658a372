"""The command `toklip app`: a local page to play with, on one's own weights."""

from collections.abc import Sequence

from toklip_jax.cli.running import plain_parser, run_plain
from toklip_jax.core import compile_cache
from toklip_jax.core.imports import import_extra
from toklip_jax.core.parser import Parser, not_negative, positive

NEEDED = ("fastapi", "python_multipart", "uvicorn")  # the modules of the extra
LOCAL = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run, is_connected=False)


def _run(args) -> None:
    for name in NEEDED:
        import_extra(name)
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


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = plain_parser(
        "app",
        "Serves a page on this machine: see a picture's ids, change them, and watch what they\n"
        "mean; draw pictures and ask questions. It needs no network.",
    )
    add = found.flag
    add("weights", "TokLIP's, or a VQ tokenizer's: a file or a directory", required=True)
    add("generator", "an image generator's, for drawing and completing")
    add("class-names", "a file with a name a line, of the generator's classes", default="")
    add("model", "a multimodal model's, for questions")
    add("tokenizer", "TokLIP's text tokenizer, where its weights hold none")
    add("image-size", "side of the images; a VQ tokenizer alone needs it", type=positive)
    add("folder", "pictures that the page starts with", default="")
    add("host", "where it listens; 0.0.0.0 is every address", default="127.0.0.1")
    add("port", "its port; 0 for any that is free", type=not_negative, default=8017)
    add("max-upload-mb", "megabytes of one upload", type=positive, default=32)
    add("max-files", "pictures that the page holds", type=positive, default=200)
    return found
