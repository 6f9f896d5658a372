"""The command `python -m toklip_jax.benchmark`: a public benchmark's score of a model."""

import argparse
import dataclasses
import pathlib
import types
import typing
from typing import Any, NamedTuple

import jax

from toklip_jax.api.loading import load
from toklip_jax.cli.command_line import quiet, run_command
from toklip_jax.core.arguments import expect_given_once
from toklip_jax.core.errors import UserError, exit_status
from toklip_jax.core.fields import type_hints
from toklip_jax.core.home import expand_user
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

SCORE = "score_{}.json"


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    args = _parser().parse_args(argv)

    def command() -> int:
        expect_given_once(argv)
        quiet()
        return run_command(lambda: _run(args), None)

    return exit_status(command)


def _run(args) -> None:
    fields = {f.name for f in dataclasses.fields(BENCHMARKS[args.benchmark])}
    given = {name: getattr(args, name) for name in fields if getattr(args, name) is not None}
    benchmark = build_benchmark({"kind": args.benchmark, **given}, args.benchmark)
    output = expand_user(args.output)
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
        output,
        identity=identity,
        batch_size=args.batch_size,
        **settings,
    )
    result = score(benchmark, data, answers, model=identity, **settings)
    call_on_main(lambda: write_json(output / SCORE.format(args.benchmark), result.to_plain()))
    if is_main_host():
        print(result)
    if args.submission is not None:
        path = expand_user(args.submission)
        call_on_main(lambda: write_submission(benchmark, data, answers, path))
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


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m toklip_jax.benchmark",
        description="Asks a multimodal model the questions of a benchmark, and scores its answers "
        "by the published rule (docs/comprehension_benchmarks.md). Run again, it asks what is "
        "left.",
    )
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--weights", required=True, help="a multimodal model: the weights of a stage")
    add("--output", type=pathlib.Path, required=True, help="a folder for the answers and the score")
    add("--batch-size", type=int, default=8, help="questions asked at once, on each host")
    add("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="after which an answer ends")
    add("--submission", help="a file to write for the benchmark's server, where it has one")
    add("--tokenizer", help="the language model's directory, where the weights hold no tokenizer")
    add("--template", help="of the conversation, where not that of training")
    add("--dtype", default="float32", help="float32 or bfloat16")
    kinds = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for kind, cls in BENCHMARKS.items():
        own = kinds.add_parser(kind, parents=[common], help=cls.about, description=cls.about)
        _add_fields(own, cls)
    return parser


def _add_fields(parser: argparse.ArgumentParser, cls: type[Benchmark]) -> None:
    """Adds a flag for each field of a benchmark's class."""
    hints = type_hints(cls)
    for field in dataclasses.fields(cls):
        is_required = field.default is dataclasses.MISSING
        note = "" if is_required or field.default is None else f"; by default {field.default}"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=field.name,
            type=_read_bool if _is_bool(hints[field.name]) else str,
            required=is_required,
            help=f"see docs/comprehension_benchmarks.md{note}",
        )


def _is_bool(hint):
    is_union = isinstance(hint, types.UnionType)
    return bool in (typing.get_args(hint) if is_union else (hint,))


def _read_bool(text):
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text == "true"
