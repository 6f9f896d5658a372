"""The command `toklip generate`: images of classes or texts, by a generator."""

from collections.abc import Sequence

import jax

from toklip_jax.api.loading import load
from toklip_jax.cli.running import plain_parser, run_plain
from toklip_jax.core.errors import UserError
from toklip_jax.core.parser import Parser, file_path
from toklip_jax.parallel.sharding import local_mesh
from toklip_jax.run.generate import Request, generate
from toklip_jax.weights import fingerprint
from toklip_jax.weights.catalogue import locate
from toklip_jax.weights.quantised import INT8

SAMPLING = ("temperature", "top_k", "top_p", "cfg_scale", "cfg_interval", "negative_class")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def _run(args) -> None:
    names = ("grid", "num_heads")
    sizes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    # Batches are padded: a few images don't take a whole one.
    is_few = 2 * args.num * args.best_of <= args.batch_size
    size = None if is_few else args.batch_size
    options = {"dtype": args.dtype, "batch_size": size, "mesh": local_mesh()}
    options |= {"param_dtype": INT8} if args.int8 else {}
    for name in ("tokenizer", "text_encoder"):
        options |= {name: getattr(args, name)} if getattr(args, name) else {}
    generator = load(args.weights, vq=args.vq, **options, **sizes)
    if not hasattr(generator, "sample"):
        raise UserError(
            f"expected a generator's weights in --weights, got {generator!r}: name a file of "
            f"LlamaGen's GPT, or the weights of a stage of kind generator"
        )
    identity = {
        "weights": _hash(args.weights),
        "vq": _hash(args.vq) if args.vq else "",
        "dtype": args.dtype,
        "num_heads": args.num_heads,
    }
    if args.int8:
        identity["param_dtype"] = INT8
    if args.text_encoder:
        identity["text_encoder"] = _hash(args.text_encoder)
    request = Request(
        num=args.num,
        classes=_classes(args, generator.config.gpt),
        seed=args.seed,
        sampling=tuple((n, getattr(args, n)) for n in SAMPLING if getattr(args, n) is not None),
        image=args.image,
        keep_rows=args.keep_rows,
        chunk=args.batch_size,
        texts=tuple(args.text or ()),
        best_of=args.best_of,
        drop_at=args.drop_at,
    )
    generate(
        generator,
        request,
        args.output,
        identity=identity,
        writes_images=not args.no_png,
        writes_arrays=args.npz,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def _hash(source: str) -> str:
    """The hash of weights that were loaded from a path or by a name."""
    return fingerprint(locate(source).path)


def _classes(args, gpt) -> tuple[int, ...]:
    """The classes that are named, none for random ones; a picture has the null class, if any."""
    text = args.classes
    if text is None and args.image and gpt.num_classes:
        return (gpt.null_class,)
    if text in (None, "random"):
        return ()
    try:
        classes = tuple(int(one) for one in text.split(","))
    except ValueError:
        raise UserError(
            f"expected --classes as numbers with commas, or random, got {text!r}"
        ) from None
    return classes


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = plain_parser(
        "generate",
        "Draws images of classes or texts, or completes a picture. The same command continues a\n"
        "run that was interrupted.",
    )
    add = found.flag
    add(
        "weights",
        "a generator: a file of LlamaGen's, or a converted directory",
        required=True,
        also_called=("gpt-ckpt", "ckpt", "checkpoint", "model"),
    )
    add(
        "vq",
        "the VQ tokenizer, where the weights hold none",
        default=None,
        also_called=("vq-ckpt", "vq-model", "vae"),
    )
    add("tokenizer", "the text tokenizer, where the weights hold none", default=None)
    add("text-encoder", "directory or name of the text encoder of a generator of captions")
    add("output", "a directory for the images", required=True, type=file_path)
    add(
        "classes",
        "classes to draw, as 207,360, taken in turn; or random, uniformly (the default)",
        also_called=("class-labels", "class-ids", "labels"),
    )
    add(
        "text",
        "a text to draw, or with --best-of to choose by; give it once for each text",
        action="append",
        also_called=("prompt", "caption"),
    )
    add("best-of", "candidates of an image; TokLIP keeps the best", type=int, default=1)
    add(
        "drop-at",
        "with --best-of, places after which the worse half of the candidates is given up; 0 for "
        "never",
        type=int,
        default=0,
    )
    add(
        "num",
        "how many images",
        type=int,
        default=16,
        also_called=("num-samples", "num-images", "n"),
    )
    add("seed", "decides random classes and the draws", type=int, default=0)
    add(
        "cfg-scale",
        "scale of classifier-free guidance; 1 for none",
        type=float,
        default=2.0,
        also_called=("guidance-scale", "cfg"),
    )
    add("cfg-interval", "guide ids 0 to this plus 1 only; -1 for all", type=int, default=-1)
    add("negative-class", "a class that guidance leads away from", type=int, default=None)
    add("temperature", "divides logits; 0 takes the most probable", type=float, default=1.0)
    add("top-k", "how many of the likeliest ids may be drawn; 0 for all", type=int, default=0)
    add("top-p", "share of the probability that these have together", type=float, default=1.0)
    add("image", "a picture to complete, with --keep-rows", default="")
    add("keep-rows", "rows of that picture's ids that stay, from the top", type=int, default=0)
    add("batch-size", "images at a time", type=int, default=32)
    add("dtype", "float32 or bfloat16", default="float32", also_called=("precision",))
    add("grid", "side of the grid of ids, where the file doesn't tell it", type=int)
    add("num-heads", "attention heads, if no named size fits", type=int)
    found.switch("int8", "keep the GPT's weights as int8")
    found.switch("npz", "write samples.npz for the ADM evaluator")
    found.switch("no-png", "write no image files")
    return found
