"""Evaluates a run, or released weights: the evaluations of a config on its models.

A config's `models` name the weights by role: `toklip`, `teacher`, `vq`, `inception`, each a path,
"stage:NAME" for the weights that a stage of this run left, or "" for none.

workdir/
    results.json    every figure, with config, weights' hashes, data, versions, commit
    results.md      the tables
    evaluation/     rows encoded so far, while an evaluation is under way
"""

import dataclasses
import datetime
import importlib.metadata
import platform
import shutil
from typing import Any

import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.revision import source_commit
from toklip_jax.core.whole_files import write_json, write_whole
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.results import Result
from toklip_jax.evaluation.suite import Kept
from toklip_jax.evaluation.tables import results_table
from toklip_jax.models.base import family_of
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.parallel.hosts import call_on_main, is_main_host
from toklip_jax.run.context import RunContext
from toklip_jax.run.stages import build_suite
from toklip_jax.tasks.registry import task_of
from toklip_jax.training.state import cast_frozen, merge, partition, place
from toklip_jax.training.workdir import STAGE_PREFIX, weights_path
from toklip_jax.weights import Weights, fingerprint
from toklip_jax.weights.read import how_to_get, read_role

RESULTS, TABLES, ROWS = "results.json", "results.md", "evaluation"
PACKAGES = ("toklip_jax", "jax", "jaxlib", "flax", "numpy", "pillow")


def evaluate(context: RunContext) -> dict[str, Result]:
    """Runs the evaluations that the config's `evaluate` names, and writes what they find.

    Rows that were encoded before an interruption are not encoded again. Without a text tokenizer of
    the run's own, the one saved with the weights is used.

    Returns:
        The results by name, on every host.

    Raises:
        ValueError: models or evaluations that don't fit; says what to change.
    """
    experiment, workdir = context.experiment, context.workdir
    weights = read_models(context)
    as_trained = _as_trained(context, weights)
    configs = {name: read.config for name, read in weights.items()}
    models = Models.from_configs(experiment.compute, configs)
    if context.tokenizer_path is None:
        context = dataclasses.replace(context, tokenizer_path=_saved_tokenizer(weights))
    _say_what_is_left_out(experiment)
    suite = build_suite(context, experiment.evaluate, models)
    hashes = {name: fingerprint(weights_path(experiment.models[name], workdir)) for name in weights}
    tokenizer = fingerprint(context.tokenizer_path) if context.tokenizer_path else ""
    # The same parameters mean another model under another config.
    described = {name: config_to_dict(config) for name, config in configs.items()}
    key = {"models": hashes, "configs": described, "tokenizer": tokenizer}
    kept = Kept(workdir / ROWS, key)
    params = {
        name: place(tree, context.mesh, family_of(configs[name]).sharding)
        for name, tree in as_trained.items()
    }
    results = suite.run(params, has_baselines=True, kept=kept)
    context.accept()
    call_on_main(lambda: _write(workdir, results, _provenance(experiment, hashes)))
    return results


def read_models(context: RunContext) -> dict[str, Weights]:
    """Reads the weights that a config's `models` name.

    Raises:
        ValueError: none, or weights of another role than their name says.
    """
    weights = {}
    for name, source in context.experiment.models.items():
        if source:
            read = read_role(name, weights_path(source, context.workdir))
            weights[name] = read.with_layout(context.experiment.compute.is_scanned)
    if not weights:
        raise UserError("expected weights to evaluate in the config's models, got none")
    return weights


def _as_trained(context, weights) -> dict[str, Any]:
    """Returns the parameters as the training loop holds them, so that both give the same figures.

    They are float32, except for those that were frozen, which the loop keeps in the compute type.
    """
    experiment = context.experiment
    stages = {f"{STAGE_PREFIX}{stage.name}": stage for stage in experiment.stages}
    stage = stages.get(experiment.models.get("toklip", ""))
    found = {}
    for name, read in weights.items():
        # Host arrays, or views of a mapped file: each device gets its part when they are placed.
        params = jax.tree.map(lambda x: np.asarray(x, np.float32), read.params)
        if stage is not None and name in ("toklip", "teacher"):
            objective = task_of(stage.task).objective
            patterns = objective.trained_by(stage.loss) if name == "toklip" else ()
            trained, frozen = partition(params, patterns)
            kept = family_of(read.config).full_precision
            params = merge(trained, cast_frozen(frozen, experiment.compute, kept))
        found[name] = params
    return found


def _saved_tokenizer(weights):
    paths = [weights[name].tokenizer_path for name in ("toklip", "teacher") if name in weights]
    return next((path for path in paths if path), None)


def _say_what_is_left_out(experiment):
    """Names the models that a config leaves empty although figures of its evaluations need them."""
    asked = [experiment.evaluations[name].optional_roles for name in experiment.evaluate]
    for name, source in experiment.models.items():
        is_missed = not source and any(name in roles for roles in asked)
        if is_missed and (advice := how_to_get(name)) and is_main_host():
            print(f"Figures that need models.{name} are left out, as it is empty: {advice}")


def _provenance(experiment, hashes) -> dict[str, Any]:
    """Returns which config, weights, software and devices the figures come from, and when."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": {
            name: {"source": str(experiment.models[name]), "sha256": digest}
            for name, digest in hashes.items()
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": source_commit(),
        "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
        "config": experiment.description,
    }


def _write(workdir, results, provenance) -> None:
    """Writes results and tables, and deletes the rows, which nothing needs from here on."""
    plain = {name: result.to_plain() for name, result in results.items()}
    write_json(workdir / RESULTS, {"evaluations": plain, **provenance})
    tables = "\n".join(f"{_title(n, r)}\n\n{results_table(r.rows)}" for n, r in results.items())
    write_whole(workdir / TABLES, tables)
    print(tables)
    shutil.rmtree(workdir / ROWS, ignore_errors=True)


def _title(name, result):
    sizes = ", ".join(f"{count} images of {part}" for part, count in result.num_images.items())
    skipped = sum(result.skipped.values())
    return f"{name} ({sizes}{f', {skipped} left out' if skipped else ''})"
