"""The command `toklip classify FOLDER --labels=cat,dog`: a folder of images by names of classes."""

import csv
import io
from collections.abc import Sequence

import jax
import numpy as np

from toklip_jax.cli.folder import load_model, text_parser
from toklip_jax.cli.running import run_plain
from toklip_jax.cli.text_search import features_of, print_table
from toklip_jax.core.errors import UserError
from toklip_jax.core.parser import Parser, file_path, positive
from toklip_jax.core.whole_files import write_whole
from toklip_jax.evaluation.prompt_sets import CLASS_LISTS, TEMPLATE_SETS, class_names, templates
from toklip_jax.evaluation.zeroshot import prompt_means, prompts
from toklip_jax.run.folder import expect_new


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = text_parser(
        "classify",
        "Prints for each image of a folder, or of a file that `toklip embed` wrote, the labels\n"
        "that fit best, each with its share of all labels' probability (softmax of the logits).",
    )
    found.flag(
        "labels",
        f"names with commas, or a text file with one a line, or one of {', '.join(CLASS_LISTS)}",
        required=True,
    )
    found.flag(
        "templates",
        f"the prompts that labels are put into: {', '.join(TEMPLATE_SETS)}, or a text file",
        default="plain",
    )
    found.flag("top", "labels of an image", type=positive, default=1)
    found.flag("output", "a .csv to write as well", type=file_path)
    found.switch("overwrite", "replace that file")
    return found


def _run(values) -> None:
    labels, prompt = _labels(values.labels), templates(values.templates)
    if values.output:
        expect_new(values.output, values.overwrite)
    model = load_model(values, "text_features")
    texts = prompt_means(model.text_features(prompts(labels, prompt)), len(prompt)).T
    names, features = features_of(values, model)
    shares = np.asarray(jax.nn.softmax(model.similarity(features, texts), axis=-1))
    best = np.argsort(-shares, axis=-1, kind="stable")[:, : values.top]
    rows = [
        (name, *(cell for i in order for cell in (labels[i], f"{share[i]:.4f}")))
        for name, order, share in zip(names, best, shares, strict=True)
    ]
    print_table(rows)
    if values.output:
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        write_whole(values.output, text.getvalue())


def _labels(text) -> tuple[str, ...]:
    if "," in text:
        labels = tuple(label.strip() for label in text.split(","))
    else:
        labels = class_names(text).names
    if len(labels) < 2 or "" in labels:
        raise UserError(f"expected several labels with commas, or a file of them, got {text!r}")
    return labels
