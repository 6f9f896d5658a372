"""Encodes a data source once, for training that needs neither pixels nor the frozen towers:

    python -m toklip_jax.encode --config=configs/toklip_s_256.py --output=CACHE [--workdir=RUN]
    python -m toklip_jax.encode --output=CACHE --parquet=DIR [--id_offset=N]

The second exports what is there; `--parquet` beside `--config` does both. Each process works on
shards of its own; a shard is written whole or not at all, and the same command goes on with those
that are missing. `data/cache.py` says what is written, the config's section `encode` how.
"""

import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any

import jax
import ml_collections
from absl import flags

from toklip_jax import command_line
from toklip_jax.data.cache import HEADER, Header, expect_complete, load_header, write_shard
from toklip_jax.data.cache_parquet import export_parquet
from toklip_jax.data.health import BadSamples
from toklip_jax.distributed import barrier, from_all, is_main_host
from toklip_jax.training.encoder import CacheEncoder
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
                write_shard(shards[number], records)
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
    everyone = from_all([is_told, error, left])
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


def main(argv: list[str]) -> int:
    """Parses, encodes, exports; returns the exit status (see `command_line.run_command`)."""
    command_line.quiet()
    try:
        values = command_line.parse(argv, _define, ("output",))
        config = values.config if values["config"].value is not None else None
        if config is None and not values.parquet:
            raise ValueError(
                "expected --config to encode by or --parquet to export to, got neither"
            )
    except ValueError as error:
        return command_line.report(error)
    work = functools.partial(_work, values, config)
    return command_line.run_command(work, config, Preempted, values.traceback)


def _work(values, config) -> None:
    shares = jax.process_index(), jax.process_count()
    if config is not None:
        try:
            header = encode(config, values.output, values.workdir, *shares)
        except (AttributeError, KeyError) as error:
            raise ValueError(f"in the config, {str(error).splitlines()[0]}") from error
        expect_complete(header, values.output)
        if is_main_host():
            size = sum(path.stat().st_size for path in pathlib.Path(values.output).iterdir())
            print(
                f"{values.output}: {header.num_samples} samples in {header.num_shards} shards, "
                f"{size / 2**20:,.1f} MiB"
            )
    if values.parquet:
        export_parquet(values.output, values.parquet, values.id_offset, *shares)


def _define(values):
    flags.DEFINE_string("output", None, "the cache's directory", flag_values=values)
    flags.DEFINE_string("workdir", "", "of the run whose stages are used", flag_values=values)
    flags.DEFINE_string("parquet", "", "a directory to export to", flag_values=values)
    flags.DEFINE_integer("id_offset", 0, "added to ids in Parquet", flag_values=values)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
