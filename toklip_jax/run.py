"""A run: the stages of a config one after another, then their evaluation."""

import functools
import pathlib

import jax
import ml_collections

from toklip_jax.data.captions import all_captions
from toklip_jax.data.emoji import named_split
from toklip_jax.data.pipeline import batches
from toklip_jax.data.sources import build_source
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.data.transforms import Chain, PickCaption, ShiftAndScale
from toklip_jax.demo import evaluate_demo
from toklip_jax.sharding import make_mesh
from toklip_jax.training.loop import Batches
from toklip_jax.training.stages import train_stage, weights_directory
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
    if mode == "eval":
        _expect_trained(config, pathlib.Path(workdir))
    workdir = open_workdir(workdir, config, restart)
    mesh = make_mesh(config.mesh)
    tokenizer_path = _text_tokenizer(config, workdir)
    for name in config.stages if mode == "train" else ():
        stage_batches = _batches(config, name, tokenizer_path)
        train_stage(name, config, workdir, mesh, stage_batches, tokenizer_path)
    if config.evaluation:
        EVALUATIONS[config.evaluation](config, workdir)


EVALUATIONS = {"demo": evaluate_demo}


def _expect_trained(config, workdir):
    for name in config.stages:
        if not weights_directory(workdir, name).exists():
            raise ValueError(
                f"expected a finished run in {workdir}, found no weights of its stage {name}: "
                f"train it first, with --mode=train"
            )


def _text_tokenizer(config, workdir) -> pathlib.Path:
    """The tokenizer a run's texts go through: the one named, or one trained on the captions."""
    if config.text.tokenizer:
        return pathlib.Path(config.text.tokenizer)
    path = workdir / "tokenizer.json"
    if not path.exists():
        concepts = named_split(config.source.split, config.source.size).train.concepts
        tokenizer = train_tokenizer(all_captions(concepts), config.text.vocab_size)
        TextTokenizer(tokenizer, config.text.context_length).save(path)
    return path


def _batches(config, name, tokenizer_path) -> Batches:
    """Batches of stage `name`, from any step on."""
    stage = config[name]
    text = TextTokenizer.load(tokenizer_path, config.text.context_length)
    transforms = [ShiftAndScale(**stage.augment)] if stage.augment else []
    if stage.objective != "vq":
        transforms.insert(0, PickCaption())

    @functools.cache
    def source():
        # Read when the stage trains, so that a finished run starts at once.
        return build_source(config.source, text if stage.objective != "vq" else None)

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
