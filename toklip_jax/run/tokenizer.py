"""The text tokenizer of a run: kept in its workdir, and never another than the config names."""

import json
import pathlib
from collections.abc import Mapping

from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.build import make_tokenizer
from toklip_jax.data.text import TOKENIZER_FILE, TextTokenizer
from toklip_jax.experiment import Experiment
from toklip_jax.parallel.hosts import call_on_main
from toklip_jax.run.context import RunContext
from toklip_jax.tasks.registry import task_of
from toklip_jax.training.workdir import CONFIG_NAME

FIELDS = ("tokenizer", "vocab_size")  # of the config's `text`: those that decide which it is


def keep_tokenizer(context: RunContext) -> pathlib.Path | None:
    """Saves the tokenizer of the run's texts in the workdir: the one named, or one trained here.

    Raises:
        UserError: the config names another one than stages of the run were trained with.
    """
    path = context.workdir / TOKENIZER_FILE
    call_on_main(lambda: _keep(context, path))
    if not path.exists():  # a host whose workdir is its own
        _make(context.experiment, path)
    return path if path.exists() else None


def expect_kept(experiment: Experiment, path: pathlib.Path) -> None:
    """Checks that the tokenizer a run kept is the one that a config names.

    Raises:
        UserError: it is another one.
    """
    if not is_kept(experiment, path):
        raise UserError(
            f"expected text.tokenizer to name the tokenizer in {path}, which stages of this run "
            f"were trained with, got {experiment.text.tokenizer or 'none'!r}, which is another: "
            f"name that one, or train in another workdir"
        )


def is_kept(experiment: Experiment, path: pathlib.Path) -> bool:
    """Tells whether the tokenizer a run kept is the one that a config names, by their contents.

    One that the run trained itself is compared by the fields of the config only.
    """
    name = experiment.text.tokenizer
    is_asked_as_before = _kept_for(path.with_name(CONFIG_NAME)) == _asked(experiment.description)
    if is_asked_as_before and not (name and expand_user(name).exists()):
        return True  # trained by the run, of the hub, or a file that has been moved away
    made = make_tokenizer(experiment.text, experiment.source)
    if made is None:
        return True
    return made.fingerprint == TextTokenizer.load(path, made.context_length).fingerprint


def _keep(context, path):
    if not path.exists():
        _make(context.experiment, path)
    elif _has_trained_texts(context):
        expect_kept(context.experiment, path)
    elif not is_kept(context.experiment, path):
        _make(context.experiment, path)


def _make(experiment, path):
    tokenizer = make_tokenizer(experiment.text, experiment.source)
    if tokenizer is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)


def _has_trained_texts(context) -> bool:
    """Says whether a stage that reads texts has made a step."""
    stages = [
        stage for stage in context.experiment.stages if task_of(stage.task).reads_texts(stage)
    ]
    return any(context.has_begun(stage.name) for stage in stages)


def _kept_for(path):
    """The fields of the config that the tokenizer was kept for, or None where none is readable."""
    try:
        return _asked(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def _asked(config):
    text = config.get("text") if isinstance(config, Mapping) else None
    return {name: text.get(name) for name in FIELDS} if isinstance(text, Mapping) else {}
