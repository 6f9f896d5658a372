"""The command `toklip chat`: a conversation about images in the terminal."""

import sys
from collections.abc import Sequence

from toklip_jax.api.loading import load
from toklip_jax.cli.running import plain_parser, run_plain
from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.core.parser import Parser
from toklip_jax.data.conversations import IMAGE
from toklip_jax.data.images import read_image

PROMPT = "> "


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def _run(args) -> None:
    images = [read_image(expand_user(path)) for path in args.image or ()] or None
    options = {"tokenizer": args.tokenizer} if args.tokenizer else {}
    model = load(args.weights, dtype=args.dtype, **options)
    if not hasattr(model, "answer"):
        raise UserError(
            f"expected a multimodal model's weights in --weights, got {model!r}: name the weights "
            f"of a stage of kind multimodal"
        )
    options = {"max_new_tokens": args.max_new_tokens, "temperature": args.temperature}
    options |= {"key": args.seed, "template": args.template or None}
    history: list[tuple[str, str]] = []
    for question in _questions(args.question):
        answer = ""
        for piece in model.stream(images, question, history=history, **options):
            print(piece, end="", flush=True)
            answer += piece
        print()
        # An answer is words: images stand in what is asked. A space, as what stands around a
        # placeholder may join to another one.
        history.append((question, answer.replace(IMAGE, " ")))


def _questions(given):
    """The questions of the command line, or those that are typed, up to an empty line."""
    if given:
        yield from given
        return
    while True:
        if sys.stdin.isatty():
            print(PROMPT, end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = plain_parser(
        "chat",
        "Answers questions about images, token by token. Without --question they are read from\n"
        "the terminal, one a line, up to an empty one.",
    )
    add = found.flag
    add("weights", "a multimodal model: the weights of a stage", required=True)
    add("image", "an image; once for each", action="append")
    add("question", "a question; once for each, one after another", action="append")
    add("tokenizer", "the language model's directory, where the weights hold no tokenizer")
    add("template", "of the conversation, where not that of training", default="")
    add("max-new-tokens", "most tokens of an answer (default: 256, or what fits)", type=int)
    add("temperature", "divides logits; 0 takes the most probable", type=float, default=0.0)
    add("seed", "of the draws", type=int, default=0)
    add("dtype", "float32 or bfloat16", default="float32")
    return found
