"""Evaluates a run, or released weights: the evaluations of a config on its models.

A config's `models` name the weights by role, each a path, "stage:NAME" for what a stage of this run
left, or "" for none.

workdir/
    results.json    every figure, with config, weights' hashes, data, versions
    results.md      the tables
    evaluation/     rows encoded so far, while an evaluation is under way
"""

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import shutil
from typing import Any

import jax
import numpy as np

from toklip_jax.core.fields import check_name
from toklip_jax.evaluation.fid import load_inception, missing_inception_message
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.results import Result
from toklip_jax.evaluation.suite import Kept
from toklip_jax.evaluation.tables import results_table
from toklip_jax.models.registry import family_of
from toklip_jax.parallel.hosts import barrier, is_main_host
from toklip_jax.run.context import RunContext
from toklip_jax.run.stages import build_suite
from toklip_jax.tasks.registry import task_of
from toklip_jax.training.state import cast_frozen, merge, partition, place
from toklip_jax.training.workdir import STAGE_PREFIX, weights_path
from toklip_jax.weights import Weights, fingerprint
from toklip_jax.weights.read import read_weights

ROLES = ("toklip", "teacher", "vq", "inception")
RESULTS, TABLES, ROWS = "results.json", "results.md", "evaluation"
PACKAGES = ("toklip_jax", "jax", "jaxlib", "flax", "numpy", "pillow")


def evaluate(context: RunContext) -> dict[str, Result]:
    """Runs the evaluations that the config's `evaluate` names, and writes what they find.

    What was encoded before an interruption is not encoded again.

    Returns:
        The results by name, on every host.

    Raises:
        ValueError: models or evaluations that don't fit; says what to change.
    """
    experiment, workdir = context.experiment, context.workdir
    weights = read_models(context)
    models, params, sharding = _models(weights, context)
    if context.tokenizer_path is None:
        context = dataclasses.replace(context, tokenizer_path=_saved_tokenizer(weights))
    _say_what_is_left_out(experiment)
    suite = build_suite(context, experiment.evaluate, models)
    hashes = {name: fingerprint(weights_path(experiment.models[name], workdir)) for name in weights}
    path = context.tokenizer_path
    kept = Kept(workdir / ROWS, {"models": hashes, "tokenizer": fingerprint(path) if path else ""})
    params = place(params, context.mesh, sharding)
    results = suite.run(params, has_baselines=True, kept=kept)
    if is_main_host():
        _write(workdir, results, _provenance(experiment, weights, hashes))
        shutil.rmtree(workdir / ROWS, ignore_errors=True)
    barrier("evaluated")
    return results


def read_models(context: RunContext) -> dict[str, Weights]:
    """Reads the weights that a config's `models` name.

    Raises:
        ValueError: none, or weights of another role than their name says.
    """
    weights = {}
    for name, source in context.experiment.models.items():
        check_name("a model", name, ROLES)
        if not source:
            continue
        if name == "inception":
            weights[name] = load_inception(source, read_weights)
            continue
        weights[name] = context.read_weights(source)
        role = family_of(weights[name].config).role
        if role != name:
            raise ValueError(
                f"expected weights of kind {name} in models.{name}, got those of a {role} in "
                f"{source}"
            )
    if not weights:
        raise ValueError("expected weights to evaluate in the config's models, got none")
    if "toklip" in weights and "vq" in weights:
        raise ValueError("expected models.vq only without models.toklip, which has its own")
    return weights


def _models(weights, context) -> tuple[Models, dict[str, Any], Any]:
    """The models, their parameters, and the rules of their sharding."""
    configs = {name: read.config for name, read in weights.items()}
    params = {name: _as_trained(name, read, context) for name, read in weights.items()}
    rules = [rule for config in configs.values() for rule in family_of(config).sharding]
    models = Models.from_configs(context.experiment.compute, configs)
    return models, params, tuple(dict.fromkeys(rules))


def _as_trained(name, weights, context):
    """Parameters as the training loop holds them, so that both give the same figures.

    That is float32, but for what was frozen in the run's last stage, which the loop keeps in the
    compute type.
    """
    # Host arrays, of a mapped file its views: each device takes its part when they are placed.
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), weights.params)
    experiment = context.experiment
    final = experiment.models.get("toklip", "").removeprefix(STAGE_PREFIX)
    stage = next((stage for stage in experiment.stages if stage.name == final), None)
    if stage is None or name not in ("toklip", "teacher"):
        return params
    objective = task_of(stage.task).objective
    patterns = stage.loss.get("trainable", objective.trainable) if name == "toklip" else ()
    trained, frozen = partition(params, patterns)
    return merge(trained, cast_frozen(frozen, experiment.compute, objective.full_precision))


def _saved_tokenizer(weights):
    paths = [weights[name].tokenizer_path for name in ("toklip", "teacher") if name in weights]
    return next((path for path in paths if path), None)


def _say_what_is_left_out(experiment):
    kinds = {experiment.evaluations[name]["kind"] for name in experiment.evaluate}
    is_unnamed = experiment.models.get("inception") == ""
    if "reconstruction" in kinds and is_unnamed and is_main_host():
        print(f"rFID is left out: {missing_inception_message('none')}")


def _provenance(experiment, weights, hashes):
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": {
            name: {"source": str(experiment.models[name]), "sha256": hashes[name]}
            for name in weights
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "config": dict(experiment.description),
    }


def _write(workdir, results, provenance):
    plain = {name: result.to_plain() for name, result in results.items()}
    text = json.dumps({"evaluations": plain, **provenance}, indent=2) + "\n"
    (workdir / RESULTS).write_text(text)
    tables = "\n".join(f"{_title(n, r)}\n\n{results_table(r.rows)}" for n, r in results.items())
    (workdir / TABLES).write_text(tables)
    print(tables)


def _title(name, result):
    sizes = ", ".join(f"{count} images of {part}" for part, count in result.num_images.items())
    skipped = sum(result.skipped.values())
    return f"{name} ({sizes}{f', {skipped} unreadable left out' if skipped else ''})"
