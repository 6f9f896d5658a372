"""A run: the stages of a config one after another, then their evaluation and its report."""

import functools
import pathlib
from collections.abc import Callable

import jax
import ml_collections

from toklip_jax.data.build import evaluation_batches, make_tokenizer, training_batches
from toklip_jax.data.sources import SourceConfig
from toklip_jax.data.text import TextTokenizer
from toklip_jax.parallel.hosts import barrier, is_main_host
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.report import write_report
from toklip_jax.run.evaluate import evaluate
from toklip_jax.run.stages import STAGE_PREFIX, check_stage, train_stage, weights_directory
from toklip_jax.tasks.toklip.cached import stage_source
from toklip_jax.training.loop import Batches
from toklip_jax.training.workdir import open_workdir

MODES = ("train", "eval")


def run(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    mode: str = "train",
    restart: bool = False,
    allow_config_change: bool = False,
    profile: tuple[int, int] | None = None,
) -> None:
    """Trains what is not yet trained, then evaluates.

    Args:
        config: what `configs/*.py` return.
        workdir: resumed if it holds a run of this config.
        mode: "train", or "eval" to evaluate only: a run that is finished, or other weights.
        restart: delete the run that is there and begin anew.
        allow_config_change: go on with a run whose config differs, after printing how.
        profile: steps [first, last) of each stage to write a profile of.

    Raises:
        ValueError: from the config or the workdir; says what to change.
    """
    if mode not in MODES:
        raise ValueError(f"expected a mode of {MODES}, got {mode!r}")
    mesh = _check(config)
    _check_models(config, pathlib.Path(workdir))
    if mode == "eval":
        _expect_judgeable(config, pathlib.Path(workdir))
    workdir = pathlib.Path(workdir)
    if is_main_host():
        open_workdir(workdir, config, restart, allow_config_change)
    barrier("workdir")
    tokenizer_path = _text_tokenizer(config, workdir)
    for name in config.stages if mode == "train" else ():
        batches, validation = _batches(config, name, tokenizer_path)
        train_stage(
            *(name, config, workdir, mesh, batches, tokenizer_path, validation),
            *(profile, allow_config_change),
        )
    if config.get("evaluate", ()):
        evaluate(config, workdir, mesh, tokenizer_path)
    if config.get("report", {}) and is_main_host():
        print(f"the report is {write_report(workdir)}")


def _check(config) -> jax.sharding.Mesh:
    """Makes the mesh, and checks what can be before the workdir is claimed for this config."""
    try:
        mesh = make_mesh(config.mesh.to_dict())
        for name in config.stages:
            check_stage(name, config)
        if config.stages:
            SourceConfig.from_plain(config.source.to_dict())
    except (AttributeError, KeyError) as error:
        raise ValueError(f"in the config, {str(error).splitlines()[0]}") from error
    return mesh


def _check_models(config, workdir):
    """An evaluation at the end must not find after weeks that its models are nowhere."""
    for name, source in config.get("models", {}).items() if config.get("evaluate", ()) else ():
        stage = source.removeprefix(STAGE_PREFIX)
        is_made = stage in config.stages or weights_directory(workdir, stage).exists()
        if source.startswith(STAGE_PREFIX) and not is_made:
            raise ValueError(
                f"expected models.{name} to be one of the stages {tuple(config.stages)}, got "
                f"{source!r}: name other weights, or leave its evaluations out of evaluate"
            )


def _expect_judgeable(config, workdir):
    if not config.get("evaluate", ()):
        raise ValueError(
            f"expected names in evaluate to run with --mode=eval, got none: choose among "
            f"{sorted(config.get('evaluations', {}))}"
        )
    for name in config.stages:
        if not weights_directory(workdir, name).exists():
            raise ValueError(
                f"expected a finished run in {workdir}, found no weights of its stage {name}: "
                f"train it first, with --mode=train"
            )


def _text_tokenizer(config, workdir) -> pathlib.Path | None:
    """Keeps in `workdir` the tokenizer of the run's texts: the one named, or one trained here."""
    path = workdir / "tokenizer.json"
    if is_main_host() and not path.exists():
        _make_tokenizer(config, path)
    barrier("tokenizer")
    if not path.exists():  # a host whose workdir is its own
        _make_tokenizer(config, path)
    return path if path.exists() else None


def _make_tokenizer(config, path):
    source = config.source.to_dict() if "source" in config else None
    tokenizer = make_tokenizer(config.text.to_dict(), source)
    if tokenizer is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)


def _check_vocabulary(text, stage):
    size = stage.get("model", {}).get("text", {}).get("vocab_size", text.vocab_size)
    if text.vocab_size > size:
        raise ValueError(
            f"expected a text tokenizer of at most {size} ids, the model's vocab_size, got one of "
            f"{text.vocab_size}: raise model.text.vocab_size"
        )


def _batches(config, name, tokenizer_path) -> tuple[Batches, Callable | None]:
    """This host's training batches of stage `name` from any step on, and its validation batches."""
    stage = config[name]
    has_text = stage.objective != "vq"
    text = None
    if has_text and tokenizer_path is not None:
        text = TextTokenizer.load(tokenizer_path, config.text.context_length)
        _check_vocabulary(text, stage)
    image_size = config.get("image_size", 0)
    shared = {
        "image_size": image_size,
        "tokenizer": text,
        "batch_size": stage.batch_size,
        "num_workers": config.num_workers,
        "host": jax.process_index(),
        "hosts": jax.process_count(),
    }
    training = training_batches(
        stage_source(config, name),
        seed=config.seed,
        has_text=has_text,
        augment=stage.augment.to_dict(),
        **shared,
    )
    if "validation" not in stage:
        return training, None
    source = stage.validation.to_dict()
    return training, functools.partial(evaluation_batches, source, **shared)
