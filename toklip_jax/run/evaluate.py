"""Judges a run, or released weights: the evaluations of a config on its models.

A config's `models` name the weights: `toklip`, `teacher`, `vq`, `inception`, each a path,
"stage:NAME" for what a stage of this run left, or "" for none.

workdir/
    results.json    every figure, with config, weights' hashes, data, versions
    results.md      the tables
    evaluation/     rows encoded so far, while an evaluation is under way
"""

import dataclasses
import datetime
import importlib.metadata
import json
import pathlib
import platform
import shutil
from typing import Any

import jax
import ml_collections
import numpy as np

from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.evaluation.fid import load_inception, missing_inception_message
from toklip_jax.evaluation.subject import Subject
from toklip_jax.evaluation.suite import Result
from toklip_jax.evaluation.tables import results_table
from toklip_jax.models.base import VQConfig
from toklip_jax.models.siglip.config import TeacherConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.hosts import barrier, is_main_host
from toklip_jax.run.stages import STAGE_PREFIX, build_suite, model_path, read_model
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.training.state import Params, cast_frozen, merge, partition, place
from toklip_jax.weights import Weights, fingerprint
from toklip_jax.weights.read import read_weights

MODELS = {"toklip": TokLIPConfig, "teacher": TeacherConfig, "vq": VQConfig}
RESULTS, TABLES, ROWS = "results.json", "results.md", "evaluation"
PACKAGES = ("toklip_jax", "jax", "jaxlib", "flax", "numpy", "pillow")


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    mesh: jax.sharding.Mesh,
    tokenizer_path: pathlib.Path | None,
) -> dict[str, Result]:
    """Runs the evaluations that the config's `evaluate` names, and writes what they find.

    What was encoded before an interruption is not encoded again.

    Args:
        tokenizer_path: of the run's text tokenizer; else the one saved with the weights is used.

    Returns:
        The results by name, on every host.

    Raises:
        ValueError: models or evaluations that don't fit; says what to change.
    """
    compute = from_fields(Compute, config.compute.to_dict(), "compute")
    weights = read_models(config, workdir, compute)
    subject, params = judged(_as_trained(config, weights, compute), compute)
    tokenizer_path = tokenizer_path or _saved_tokenizer(weights)
    is_asked = any(config.evaluations[name].kind == "reconstruction" for name in config.evaluate)
    if is_asked and is_main_host() and config.models.get("inception") == "":
        print(f"rFID is left out: {missing_inception_message('none')}")
    suite = build_suite(config, config.evaluate, subject, mesh, tokenizer_path)
    hashes = {name: fingerprint(model_path(config.models[name], workdir)) for name in weights}
    tokenizer = fingerprint(tokenizer_path) if tokenizer_path else ""
    rows = workdir / ROWS
    key = {"models": hashes, "tokenizer": tokenizer}
    results = suite.run(place(params, mesh), True, rows, key)
    if is_main_host():
        _write(workdir, results, _circumstances(config, weights, hashes))
        shutil.rmtree(rows, ignore_errors=True)
    barrier("evaluated")
    return results


def read_models(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, compute: Compute
) -> dict[str, Weights]:
    """Reads the weights that a config's `models` name.

    Raises:
        ValueError: none, or weights of another kind than their name says.
    """
    weights = {}
    for name, source in config.get("models", {}).items():
        check_name("a model", name, [*MODELS, "inception"])
        if not source:
            continue
        if name == "inception":
            weights[name] = load_inception(source, read_weights)
            continue
        weights[name] = read_model(source, workdir, compute)
        if not isinstance(weights[name].config, MODELS[name]):
            raise ValueError(
                f"expected weights of kind {name} in models.{name}, got those of a "
                f"{type(weights[name].config).__name__} in {source}"
            )
    if not weights:
        raise ValueError("expected weights to judge in the config's models, got none")
    return weights


def judged(weights: dict[str, Weights], compute: Compute) -> tuple[Subject, Params]:
    """Returns what evaluations see of the weights, and the parameters as it has them."""
    configs: dict[str, Any] = {name: read.config for name, read in weights.items()}
    params = {name: read.params for name, read in weights.items()}
    if "teacher" in weights:
        configs["teacher"] = weights["teacher"].config.vision
        params["teacher"] = weights["teacher"].params["image_tower"]
        if "toklip" not in weights:
            configs["text"] = weights["teacher"].config.text
            params["text"] = weights["teacher"].params["text_tower"]
    if "toklip" in weights and "vq" in weights:
        raise ValueError("expected models.vq only without models.toklip, which has its own")
    return Subject(compute, **configs), params


def _as_trained(config, weights, compute):
    """The weights as the training loop holds them, so that both give the same figures.

    That is float32, but for what was frozen, which the loop keeps in the compute type.
    """
    stage = config.get("models", {}).get("toklip", "").removeprefix(STAGE_PREFIX)
    is_trained_here = stage in config.stages
    found = {}
    for name, read in weights.items():
        # Host arrays, of a mapped file its views: each device takes its part when they are placed.
        params = jax.tree.map(lambda x: np.asarray(x, np.float32), read.params)
        if is_trained_here and name == "toklip":
            patterns = config[stage].loss.get("trainable", TokLIPObjective.trainable)
            trained, frozen = partition(params, patterns)
            params = merge(trained, cast_frozen(frozen, compute))
        elif is_trained_here and name == "teacher":
            params = cast_frozen(params, compute)
        found[name] = dataclasses.replace(read, params=params)
    return found


def _saved_tokenizer(weights):
    paths = [weights[name].tokenizer_path for name in ("toklip", "teacher") if name in weights]
    return next((path for path in paths if path), None)


def _circumstances(config, weights, hashes):
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": {
            name: {"source": str(config.models[name]), "sha256": hashes[name]} for name in weights
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "config": json.loads(config.to_json()),
    }


def _write(workdir, results, circumstances):
    plain = {name: result.to_plain() for name, result in results.items()}
    text = json.dumps({"evaluations": plain, **circumstances}, indent=2) + "\n"
    (workdir / RESULTS).write_text(text)
    tables = "\n".join(f"{_title(n, r)}\n\n{results_table(r.rows)}" for n, r in results.items())
    (workdir / TABLES).write_text(tables)
    print(tables)


def _title(name, result):
    sizes = ", ".join(f"{count} images of {part}" for part, count in result.num_images.items())
    skipped = sum(result.skipped.values())
    return f"{name} ({sizes}{f', {skipped} unreadable left out' if skipped else ''})"
