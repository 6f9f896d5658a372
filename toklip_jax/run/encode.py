"""Encodes a data source once, for training that needs neither pixels nor the frozen towers:

    python -m toklip_jax.encode --config=configs/toklip_s_256.py --output=CACHE [--workdir=RUN]
    python -m toklip_jax.encode --output=CACHE --parquet=DIR [--id_offset=N]

The second exports what is there; `--parquet` beside `--config` does both. Each process works on
shards of its own; a shard is written whole or not at all, and the same command goes on with those
that are missing. `data/cache.py` says what is written, the config's section `encode` how.
"""

import dataclasses
import json
import pathlib
from typing import Any

import ml_collections

from toklip_jax.data.cache import HEADER, Header, load_header
from toklip_jax.data.health import BadSamples
from toklip_jax.data.record_files import write_records
from toklip_jax.parallel.hosts import barrier, gather_from_hosts, is_main_host
from toklip_jax.tasks.toklip.encoder import CacheEncoder
from toklip_jax.training.faults import Preempted, Preemption
from toklip_jax.training.workdir import flatten


def encode(
    config: ml_collections.ConfigDict,
    output: str | pathlib.Path,
    workdir: str | pathlib.Path = "",
    host: int = 0,
    hosts: int = 1,
) -> Header:
    """Encodes a config's source, or what is missing of it, and returns the cache's header.

    Args:
        output: the cache's directory, one for all hosts.
        workdir: of a run whose stages `init` names, if it does.
        host: of `hosts`; it writes every `hosts`-th shard.

    Raises:
        ValueError: from the config; another cache in `output`; too many bad samples.
        Preempted: told to stop by SIGTERM; whole shards stay.
    """
    encoder, output = CacheEncoder(config, pathlib.Path(workdir)), pathlib.Path(output)
    if is_main_host():
        _claim(output, encoder)
    barrier("cache")
    shards = {i: output / encoder.header.shard(i) for i in range(encoder.header.num_shards)}
    missing = [i for i in shards if i % hosts == host and not shards[i].exists()]
    bad = BadSamples(encoder.max_bad_share)
    encoded, left, error = encoder.shards(missing, bad), len(missing), ""
    with Preemption(is_alone=True) as preemption:
        while _is_any_left(preemption.is_reached(), error, left):
            if not left:
                continue  # others work on
            try:
                number, records = next(encoded)
            except ValueError as found:
                error = str(found)  # so that no host waits for this one
            else:
                write_records(shards[number], records)
                left -= 1
    if bad.counts:
        print(f"host {host} left out {bad.report()}")
    return encoder.header


def _is_any_left(is_told, error, left) -> bool:
    """Whether some host has shards to encode; after each shard, all of them ask.

    Raises:
        ValueError: a host met an error.
        Preempted: a host was told to stop.
    """
    everyone = gather_from_hosts([is_told, error, left])
    total = sum(one[2] for one in everyone)
    if errors := [one[1] for one in everyone if one[1]]:
        raise ValueError(errors[0])
    if total and any(one[0] for one in everyone):
        raise Preempted(f"{total} shards are left to encode")
    return total > 0


def _claim(output, encoder) -> None:
    """Makes the cache's directory, or sees that what is there is the same cache."""
    output.mkdir(parents=True, exist_ok=True)
    if (output / HEADER).exists():
        theirs, ours = (_comparable(h) for h in (load_header(output), encoder.header))
        if differ := sorted(n for n in theirs.keys() | ours if theirs.get(n) != ours.get(n)):
            lines = [f"{n}: {theirs.get(n)} there, {ours.get(n)} now" for n in differ[:5]]
            raise ValueError(
                f"{output} holds a cache of another config, data or weights ({'; '.join(lines)}): "
                f"choose another --output"
            )
        return
    if others := sorted(p.name for p in output.iterdir() if not p.name.startswith(".")):
        raise ValueError(
            f"expected a new directory or a cache as --output, got {output}, which holds "
            f"{others[0]}: choose another"
        )
    encoder.header.save(output)
    if encoder.tokenizer:
        encoder.tokenizer.save(output)


def _comparable(header) -> dict[str, Any]:
    plain = json.loads(json.dumps(dataclasses.asdict(header)))
    return flatten({name: value for name, value in plain.items() if name != "toklip_jax"})
