"""A run: the stages of a config one after another, then their evaluation."""

import functools
import pathlib

import jax
import ml_collections

from toklip_jax.data.pipeline import batches
from toklip_jax.data.sources import SOURCES, build_source, source_texts
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.data.transforms import Chain, PickCaption, ShiftAndScale
from toklip_jax.demo import evaluate_demo
from toklip_jax.fields import known
from toklip_jax.sharding import make_mesh
from toklip_jax.training.loop import Batches
from toklip_jax.training.stages import check_stage, train_stage, weights_directory
from toklip_jax.training.workdir import open_workdir

MODES = ("train", "eval")


def run(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    mode: str = "train",
    restart: bool = False,
) -> None:
    """Trains what is not yet trained, then evaluates.

    Args:
        config: what `configs/*.py` return.
        workdir: resumed if it holds a run of this config.
        mode: "train", or "eval" to evaluate only, of a run that is finished.
        restart: delete the run that is there and begin anew.

    Raises:
        ValueError: from the config or the workdir; says what to change.
    """
    if mode not in MODES:
        raise ValueError(f"expected a mode of {MODES}, got {mode!r}")
    mesh = _check(config)
    if mode == "eval":
        _expect_trained(config, pathlib.Path(workdir))
    workdir = open_workdir(workdir, config, restart)
    tokenizer_path = _text_tokenizer(config, workdir)
    for name in config.stages if mode == "train" else ():
        stage_batches = _batches(config, name, tokenizer_path)
        train_stage(name, config, workdir, mesh, stage_batches, tokenizer_path)
    if config.evaluation:
        EVALUATIONS[config.evaluation](config, workdir)


EVALUATIONS = {"demo": evaluate_demo}


def _check(config) -> jax.sharding.Mesh:
    """Makes the mesh, and checks what can be before the workdir is claimed for this config."""
    try:
        mesh = make_mesh(config.mesh.to_dict())
        for name in config.stages:
            check_stage(name, config)
        known("source.kind", config.source.kind, SOURCES)
        if config.evaluation:
            known("evaluation", config.evaluation, EVALUATIONS)
    except (AttributeError, KeyError) as error:
        raise ValueError(f"in the config, {str(error).splitlines()[0]}") from error
    return mesh


def _expect_trained(config, workdir):
    for name in config.stages:
        if not weights_directory(workdir, name).exists():
            raise ValueError(
                f"expected a finished run in {workdir}, found no weights of its stage {name}: "
                f"train it first, with --mode=train"
            )


def _text_tokenizer(config, workdir) -> pathlib.Path | None:
    """Keeps in `workdir` the tokenizer of the run's texts: the one named, or one trained here."""
    path = workdir / "tokenizer.json"
    if path.exists():
        return path
    length = config.text.context_length
    if config.text.tokenizer:
        tokenizer = TextTokenizer.load(config.text.tokenizer, length)
    elif (texts := source_texts(config.source.to_dict())) is not None:
        tokenizer = TextTokenizer(train_tokenizer(texts, config.text.vocab_size), length)
    else:
        return None
    return tokenizer.save(path)


def _check_vocabulary(text, stage):
    size = stage.get("model", {}).get("text", {}).get("vocab_size", text.vocab_size)
    if text.vocab_size > size:
        raise ValueError(
            f"expected a text tokenizer of at most {size} ids, the model's vocab_size, got one of "
            f"{text.vocab_size}: raise model.text.vocab_size"
        )


def _batches(config, name, tokenizer_path) -> Batches:
    """Batches of stage `name`, from any step on."""
    stage = config[name]
    has_text = stage.objective != "vq"
    transforms = [PickCaption()] if has_text else []
    if stage.augment:
        transforms.append(ShiftAndScale(**stage.augment))
    text = None
    if has_text and tokenizer_path is not None:
        text = TextTokenizer.load(tokenizer_path, config.text.context_length)
        _check_vocabulary(text, stage)

    @functools.cache
    def source():
        # Read when the stage trains, so that a finished run starts at once.
        return build_source(config.source.to_dict(), text)

    def from_step(start):
        return batches(
            source(),
            Chain(*transforms),
            stage.batch_size,
            config.seed,
            start,
            config.num_workers,
            jax.process_index(),
            jax.process_count(),
        )

    return from_step
