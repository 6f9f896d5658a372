"""Encodes a data source once, for training that needs neither pixels nor the frozen towers.

Each process works on shards of its own; a shard is written whole or not at all, and the same
command continues with those that are missing. `data/cache` says what is written.
"""

import dataclasses
import difflib
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from toklip_jax.core.errors import TryAgain, UserError, line_for_user
from toklip_jax.core.home import expand_user
from toklip_jax.data.build import make_tokenizer
from toklip_jax.data.cache import DATA, HEADER, Header, load_header
from toklip_jax.data.health import BadSamples
from toklip_jax.data.record_files import write_records
from toklip_jax.data.text import TOKENIZER_FILE, TextTokenizer
from toklip_jax.experiment import Experiment
from toklip_jax.parallel.hosts import call_on_main
from toklip_jax.parallel.preemption import is_told, stopping_when_asked
from toklip_jax.parallel.sharding import AXES
from toklip_jax.run.context import RunContext
from toklip_jax.run.shares import is_any_left
from toklip_jax.run.tokenizer import expect_kept
from toklip_jax.tasks.base import initial_weights
from toklip_jax.tasks.registry import TASKS, task_of
from toklip_jax.training.config_change import flatten
from toklip_jax.training.workdir import STAGE_PREFIX, weights_path

LEFT = "shards are left to encode"


def encode(
    experiment: Experiment,
    output: str | pathlib.Path,
    workdir: str | pathlib.Path = "",
    *,
    remedy: str = "choose another --output",
    host: int = 0,
    hosts: int = 1,
) -> Header:
    """Encodes the shards of a config's source that are missing, and returns the cache's header.

    Args:
        output: the cache's directory, one for all hosts.
        workdir: the directory of a run whose stages `init` names, if it does.
        remedy: what to do where `output` holds something else, for the message.
        host: this host's number of `hosts`; it writes every `hosts`-th shard.

    Raises:
        ValueError: from the config; another cache in `output`; too many bad samples.
        Preempted: told to stop by SIGTERM, or worker processes were lost; whole shards stay.
    """
    encoder = _encoder(experiment, expand_user(workdir))
    output = expand_user(output)
    call_on_main(lambda: _claim(output, encoder, remedy))
    shards = {i: output / encoder.header.shard(i) for i in range(encoder.header.num_shards)}
    missing = [i for i in shards if i % hosts == host and not shards[i].exists()]
    bad = BadSamples(encoder.max_bad_share)
    encoded, left, error, must_stop = encoder.shards(missing, bad), len(missing), "", False
    with stopping_when_asked(is_alone=True):
        # What one host meets is told to all, so that none waits for it.
        while is_any_left(left, LEFT, is_told=must_stop or is_told(is_alone=True), error=error):
            if not left:
                continue  # others work on
            try:
                number, records = next(encoded)
                write_records(shards[number], records)
                left -= 1
            except TryAgain as found:
                print(f"host {host}: {found}", file=sys.stderr)
                must_stop = True
            except (UserError, OSError) as found:
                error = line_for_user(found) or str(found)
    if bad.counts:
        print(f"host {host} left out {bad.report()}")
    return encoder.header


def _encoder(experiment, workdir):
    name = experiment.encode.stage
    stage = experiment.sections.get(name)
    task = stage and task_of(stage.task)
    if task is None or task.cache is None:
        can = [task.name for task in TASKS.values() if task.cache]
        near = difflib.get_close_matches(name, experiment.sections, 1)
        raise UserError(
            f"expected encode.stage to name the section of a stage of {' or '.join(can)}, got "
            f"{name!r}: choose among {sorted(experiment.sections)}"
            + (f" (did you mean {near[0]!r}?)" if near else "")
        )
    if experiment.source is None:
        raise UserError("expected a section source to encode, found none")
    _check_stages(stage, workdir)
    context = RunContext(experiment, workdir, _local_mesh())
    objective, params = task.start(stage, context.start)
    return task.cache.encoder(
        stage,
        objective,
        params,
        source=experiment.source,
        config=experiment.encode,
        reading=experiment.reading,
        tokenizer=_tokenizer(experiment, workdir, objective.text_config),
        mesh=context.mesh,
        seed=experiment.seed,
    )


def _check_stages(stage, workdir):
    for name, source in initial_weights(stage).items():
        if source.startswith(STAGE_PREFIX) and not weights_path(source, workdir).is_dir():
            raise UserError(
                f"expected the weights of {source!r}, which init.{name} names, found none in "
                f"{workdir}: name the run that trained it, with --workdir"
            )


def _local_mesh() -> Mesh:
    devices = np.array(jax.local_devices()).reshape(-1, 1, 1)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _tokenizer(experiment, workdir, tower) -> TextTokenizer | None:
    if tower is None:
        return None
    path, text = workdir / TOKENIZER_FILE, experiment.text
    if path.is_file():  # the run's, which its stages were trained with
        expect_kept(experiment, path)
        text = dataclasses.replace(text, tokenizer=str(path))
    tokenizer = make_tokenizer(text, experiment.source, tower.context_length)
    if tokenizer is not None:
        tokenizer.expect_fits(tower)
    return tokenizer


def _claim(output, encoder, remedy) -> None:
    """Creates the cache's directory, or checks that an existing one holds the same cache."""
    output.mkdir(parents=True, exist_ok=True)
    if (output / HEADER).exists():
        found, header = load_header(output), encoder.header
        if DATA not in found.hashes:
            known = {part: digest for part, digest in header.hashes.items() if part != DATA}
            header = dataclasses.replace(header, hashes=known)
        if not found.vq:
            header = dataclasses.replace(header, vq={})
        theirs, ours = _comparable(found), _comparable(header)
        if differ := sorted(n for n in theirs.keys() | ours if theirs.get(n) != ours.get(n)):
            lines = [f"{n}: {theirs.get(n)} there, {ours.get(n)} now" for n in differ[:5]]
            raise UserError(
                f"{output} holds a cache of another config, data or weights ({'; '.join(lines)}): "
                f"{remedy}"
            )
        return
    if others := sorted(p.name for p in output.iterdir() if not p.name.startswith(".")):
        raise UserError(
            f"expected a new directory or a cache, got {output}, which holds {others[0]}: {remedy}"
        )
    encoder.header.save(output)
    if encoder.tokenizer:
        encoder.tokenizer.save(output)


def _comparable(header) -> dict[str, Any]:
    plain = json.loads(json.dumps(dataclasses.asdict(header)))
    return flatten({name: value for name, value in plain.items() if name != "toklip_jax"})
