"""The stages of a run: each trains one model and leaves its weights for those that follow.

workdir/
    STAGE/checkpoints/   while it trains: state, optimizer
    STAGE/metrics.jsonl, STAGE/tensorboard/
    STAGE/weights/       when it is done: a directory that `toklip_jax.load` and `convert` read
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections

from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.data.cache import expect_complete, load_header
from toklip_jax.data.sources import cache_directories
from toklip_jax.data.text import TextTokenizer
from toklip_jax.evaluation.subject import Subject
from toklip_jax.evaluation.suite import Suite, flat_figures, make
from toklip_jax.models.serialization import config_from_dict
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.hosts import agreed, barrier, is_main_host
from toklip_jax.parallel.sharding import shardings, to_host
from toklip_jax.tasks.teacher.objective import TeacherObjective
from toklip_jax.tasks.toklip.cached import (
    check_caches,
    features_of,
    stage_source,
    unused_parameters,
)
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.tasks.toklip.start import start_toklip
from toklip_jax.tasks.validation import validation
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.training.loop import Batches, LoopConfig, LoopContext, train
from toklip_jax.training.objective import Objective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import Params
from toklip_jax.weights import Weights, save_weights
from toklip_jax.weights.read import read_weights

EVALUATION_BATCH_SIZE = 256  # unless the config has `evaluation_batch_size`
STAGE_PREFIX = "stage:"  # in `init`: the weights that another stage of this run left


def train_stage(
    name: str,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    mesh: jax.sharding.Mesh,
    batches: Batches,
    tokenizer_path: pathlib.Path | None,
    validation_batches: Callable[[], Iterator[Any]] | None = None,
    profile: tuple[int, int] | None = None,
    allow_config_change: bool = False,
) -> pathlib.Path:
    """Trains stage `name` of `config`, or goes on with it, and returns its weights' directory.

    Args:
        batches: see `loop.train`; what it yields must fit the stage's objective.
        tokenizer_path: of the text tokenizer the batches are made with, saved with the weights.
        validation_batches: what `loop.evaluate_every` validates on.
        profile, allow_config_change: see `loop.LoopContext`.

    Raises:
        ValueError: `evaluate_every` without `validation_batches`.
    """
    weights = weights_directory(workdir, name)
    if agreed(weights.exists()):
        return weights
    stage = config[name]
    compute = from_fields(Compute, config.compute.to_dict(), "compute")
    objective, params = build_stage(stage, compute, workdir, mesh, config.seed)
    cache = check_caches(stage_source(config, name), stage, objective, params, tokenizer_path)
    loop = from_fields(LoopConfig, stage.loop.to_dict(), f"{name}.loop")
    surroundings = LoopContext(
        title=name,
        evaluate=_evaluation(
            name, config, objective, loop, validation_batches, mesh, tokenizer_path
        ),
        description=json.loads(config.to_json()),
        allow_change=allow_config_change,
        profile=profile,
        wandb=dict(config.get("wandb", {})),
        compute=compute,
        unused=unused_parameters(objective, params, features_of(cache)) if cache else (),
    )
    optimizer = from_fields(OptimizerConfig, stage.optimizer.to_dict(), f"{name}.optimizer")
    params = train(
        *(objective, params, batches, optimizer, loop, mesh, workdir / name, config.seed),
        surroundings,
    )
    params = to_host({key: value for key, value in params.items() if key != "teacher"})
    if is_main_host():
        source = f"stage {name} of {workdir}"
        weights_of = objective.model_config, params, compute.is_scanned, {}, tokenizer_path, source
        save_weights(weights, Weights(*weights_of))
    barrier(f"weights of {name}")
    return weights


def _evaluation(name, config, objective, loop, batches, mesh, tokenizer_path):
    """What `evaluate_every` calls: the stage's `validation`, and the evaluations that it names."""
    if not loop.evaluate_every:
        return None
    chosen = config[name].get("evaluate", ())
    if batches is None and not chosen:
        raise ValueError(
            f"expected a section {name}.validation, or names in {name}.evaluate, with "
            f"evaluate_every, found neither"
        )
    validate = validation(objective, batches, mesh) if batches else lambda params: {}
    suite = build_suite(config, chosen, objective.subject, mesh, tokenizer_path) if chosen else None

    def evaluate(params):
        figures = validate(params)
        if suite:
            figures |= flat_figures(suite.run(objective.subject_params(params)))
        return figures

    return evaluate


def build_suite(
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    subject: Subject,
    mesh: jax.sharding.Mesh,
    tokenizer_path: pathlib.Path | None,
) -> Suite:
    """Returns the evaluations `names` of a config.

    Raises:
        ValueError: one that is not among its `evaluations`, or is no evaluation.
    """
    sections = config.get("evaluations", ml_collections.ConfigDict()).to_dict()
    chosen = {check_name("evaluate", name, sections): sections[name] for name in names}
    text = tokenizer_path and TextTokenizer.load(tokenizer_path, config.text.context_length)
    image_size = config.get("image_size", 0) or subject.image_size or 0
    return Suite(
        *(chosen, subject, mesh, image_size, text),
        config.get("evaluation_batch_size", EVALUATION_BATCH_SIZE),
        config.num_workers,
        config.get("evaluation_resize", "squash"),
    )


def check_stage(name: str, config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for what a stage's section has wrong, as far as it shows beforehand."""
    if name not in config:
        raise ValueError(f"expected a section for each of stages, found none called {name!r}")
    stage = config[name]
    check_name(f"{name}.objective", stage.objective, BUILDERS)
    from_fields(Compute, config.compute.to_dict(), "compute")
    from_fields(OptimizerConfig, stage.optimizer.to_dict(), f"{name}.optimizer")
    from_fields(LoopConfig, stage.loop.to_dict(), f"{name}.loop")
    if "model" in stage:
        _model(stage)
    source = stage_source(config, name)
    for directory in cache_directories(source):
        if stage.objective != "toklip":
            raise ValueError(
                f"expected a source of images for the {stage.objective} stage {name}, got a cache: "
                f"only toklip trains on one; name it in the toklip stage's field cache"
            )
        expect_complete(load_header(directory), directory)
    sections = config.get("evaluations", {})
    for evaluation in (*stage.get("evaluate", ()), *config.get("evaluate", ())):
        make(check_name("evaluate", evaluation, sections), sections[evaluation].to_dict())


def weights_directory(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Returns where stage `name` leaves its weights; it exists when the stage is done."""
    return workdir / name / "weights"


def build_stage(
    stage: ml_collections.ConfigDict,
    compute: Compute,
    workdir: pathlib.Path,
    mesh: jax.sharding.Mesh,
    seed: int,
) -> tuple[Objective, Params]:
    """Returns a stage's objective and its parameters at the start, sharded over the mesh.

    Raises:
        ValueError: a field that the objective doesn't have, or weights that don't fit.
    """
    return BUILDERS[stage.objective](stage, compute, workdir, mesh, seed)


def make_objective(stage: ml_collections.ConfigDict, **others: Any) -> Objective:
    """Returns the objective of a stage's section; `others` are its fields besides the loss's.

    Raises:
        ValueError: a field that the objective doesn't have; names the nearest.
    """
    cls = OBJECTIVES[stage.objective]
    return from_fields(cls, stage.loss.to_dict(), f"the {stage.objective} stage's loss", **others)


def _build_vq(stage, compute, workdir, mesh, seed):
    objective = make_objective(stage, model_config=_model(stage), compute=compute)
    return objective, _fresh(objective, mesh, seed)


def _build_teacher(stage, compute, workdir, mesh, seed):
    objective = make_objective(stage, model_config=_model(stage), compute=compute)
    return objective, _fresh(objective, mesh, seed)


def _build_toklip(stage, compute, workdir, mesh, seed):
    """TokLIP starts from a SigLIP 2 teacher and a VQ tokenizer, as released."""
    teacher, vq = (read_model(stage.init[name], workdir, compute) for name in ("teacher", "vq"))
    start = start_toklip(teacher, vq, is_causal=stage.is_causal, seed=seed)
    if is_main_host():
        print("\n".join(start.report))
    model = dataclasses.replace(start.weights.config, has_logit_bias=stage.has_logit_bias)
    params = start.weights.params | {"teacher": teacher.params["image_tower"]}
    if not stage.has_logit_bias:
        params.pop("logit_bias", None)
    objective = make_objective(
        stage,
        model_config=model,
        teacher_config=teacher.config.vision,
        compute=compute,
    )
    return objective, params


OBJECTIVES = {"vq": VQObjective, "teacher": TeacherObjective, "toklip": TokLIPObjective}
BUILDERS = {"vq": _build_vq, "teacher": _build_teacher, "toklip": _build_toklip}


def _fresh(objective: Objective, mesh: jax.sharding.Mesh, seed: int) -> Params:
    """Fresh parameters, born sharded."""
    key = jax.random.key(seed)
    lies = shardings(jax.eval_shape(objective.init, key), mesh)
    return jax.jit(objective.init, out_shardings=lies)(key)


def read_model(source: str, workdir: pathlib.Path, compute: Compute) -> Weights:
    """Reads what `init` or `models` name, in the layout of `compute`."""
    return read_weights(model_path(source, workdir)).with_layout(compute.is_scanned)


def model_path(source: str, workdir: pathlib.Path) -> pathlib.Path:
    """Returns where the weights are that `init` or `models` name: a stage's, or a path."""
    if source.startswith(STAGE_PREFIX):
        return weights_directory(workdir, source.removeprefix(STAGE_PREFIX))
    return pathlib.Path(source)


def _model(stage: ml_collections.ConfigDict) -> Any:
    return config_from_dict(stage.model.to_dict())
