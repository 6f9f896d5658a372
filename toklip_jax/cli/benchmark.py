"""The command `python -m toklip_jax.benchmark`: a public benchmark's score of a model."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from toklip_jax.api.loading import load
from toklip_jax.cli.running import plain_parser, run_plain
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import type_hints
from toklip_jax.core.home import expand_user
from toklip_jax.core.parser import Parser, file_path, positive
from toklip_jax.core.whole_files import write_json
from toklip_jax.evaluation.comprehension import (
    BENCHMARKS,
    Benchmark,
    ask,
    build_benchmark,
    score,
    write_submission,
)
from toklip_jax.evaluation.comprehension.run import MAX_NEW_TOKENS
from toklip_jax.parallel.hosts import call_on_all, call_on_main, is_main_host
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.weights import fingerprint

SEE = "see docs/comprehension_benchmarks.md"
SCORE = "score_{}.json"


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def _run(args) -> None:
    fields = {f.name for f in dataclasses.fields(BENCHMARKS[args.benchmark])}
    given = {name: getattr(args, name) for name in fields if getattr(args, name) is not None}
    benchmark = build_benchmark({"kind": args.benchmark, **given}, args.benchmark)
    data = call_on_all(benchmark.read)
    devices = jax.local_devices()
    mesh = make_mesh({"data": len(devices)}, devices) if len(devices) > 1 else None
    options = {"tokenizer": args.tokenizer} if args.tokenizer else {}
    model = load(args.weights, dtype=args.dtype, mesh=mesh, **options)
    if not hasattr(model, "answer"):
        raise UserError(
            f"expected a multimodal model's weights in --weights, got {model!r}: name the weights "
            f"of a stage of kind multimodal"
        )
    identity = {"weights": fingerprint(expand_user(args.weights)), "dtype": args.dtype}
    if args.tokenizer:
        identity["tokenizer"] = fingerprint(expand_user(args.tokenizer))
    if args.template:
        identity["template"] = args.template
    settings = {"max_new_tokens": args.max_new_tokens}
    answers = ask(
        benchmark,
        data,
        Asked(model, args.template),
        args.output,
        identity=identity,
        batch_size=args.batch_size,
        **settings,
    )
    result = score(benchmark, data, answers, model=identity, **settings)
    call_on_main(lambda: write_json(args.output / SCORE.format(args.benchmark), result.to_plain()))
    if is_main_host():
        print(result)
    if args.submission is not None:
        call_on_main(lambda: write_submission(benchmark, data, answers, args.submission))
    elif not data.has_references and is_main_host():
        print("--submission=FILE writes the answers as the benchmark's server takes them")


class Asked(NamedTuple):
    """A model that is asked in a template, by default the one that it was trained with."""

    model: Any
    template: str | None

    def answer(self, images, questions, *, max_new_tokens):
        """Returns one answer for each question; see `comprehension.run.AnswersQuestions`."""
        options = {"template": self.template} if self.template else {}
        return self.model.answer(images, questions, max_new_tokens=max_new_tokens, **options)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = plain_parser(
        "benchmark",
        "Asks a multimodal model the questions of a benchmark, and scores its answers by the\n"
        "published rule (docs/comprehension_benchmarks.md). Run again, it asks what is left.",
    )
    kinds = found.add_subparsers(
        dest="benchmark", required=True, metavar="BENCHMARK", prog=found.prog
    )
    for kind, cls in BENCHMARKS.items():
        own = kinds.add_parser(kind, help=cls.about, description=cls.about)
        _add_fields(own, cls)
        add = own.flag
        add("weights", "a multimodal model: the weights of a stage", required=True)
        add("output", "a folder for the answers and the score", required=True, type=file_path)
        add("batch-size", "questions asked at once, on each host", type=positive, default=8)
        most = {"type": positive, "default": MAX_NEW_TOKENS}
        add("max-new-tokens", "tokens after which an answer ends", **most)
        about = "a file to write for the benchmark's server, where it has one"
        add("submission", about, type=file_path)
        add("tokenizer", "the language model's directory, where the weights hold no tokenizer")
        add("template", "of the conversation, where not that of training")
        add("dtype", "float32 or bfloat16", default="float32")
        own.switch("traceback", "show where an error came from")
    return found


def _add_fields(own: Parser, cls: type[Benchmark]) -> None:
    """Adds a flag for each field of a benchmark's class."""
    for field in dataclasses.fields(cls):
        name = field.name.replace("_", "-")
        if type_hints(cls)[field.name] is bool:
            own.switch(name, SEE)
        else:
            is_required = field.default is dataclasses.MISSING
            default = None if is_required else field.default
            own.flag(name, SEE, required=is_required, default=default)
