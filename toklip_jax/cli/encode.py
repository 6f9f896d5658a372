"""Encodes a data source once, for training that needs neither pixels nor the frozen towers:

    python -m toklip_jax.encode --config=configs/toklip_s_256.py --output=CACHE [--workdir=RUN]
    python -m toklip_jax.encode --output=CACHE --parquet=DIR [--id_offset=N]

The second exports an existing cache; `--parquet` together with `--config` does both.
"""

import functools

import jax
from absl import flags

from toklip_jax.cli import command_line
from toklip_jax.core.errors import UserError
from toklip_jax.core.home import expand_user
from toklip_jax.data.cache import expect_complete, export_parquet
from toklip_jax.parallel.hosts import is_main_host
from toklip_jax.run.encode import encode


def main(argv: list[str]) -> int:
    """Parses, encodes, exports; returns the exit status (see `core.errors`)."""
    return command_line.run(argv, _parse, _prepare)


def _parse(argv):
    return command_line.parse(argv, _define, ("output",), __doc__)


def _prepare(values, experiment):
    if experiment is None and not values.parquet:
        raise UserError("expected --config to encode by or --parquet to export to, got neither")
    if experiment is None and values.workdir:
        raise UserError(
            f"expected --workdir with --config only, got {values.workdir!r}: an export uses no "
            f"run, so leave it out"
        )
    if values.id_offset and not values.parquet:
        raise UserError(
            f"expected --id_offset with --parquet only, got {values.id_offset}: a cache holds ids "
            f"as they are, so leave it out"
        )
    return functools.partial(_work, values, experiment)


def _work(values, experiment) -> None:
    shares = {"host": jax.process_index(), "hosts": jax.process_count()}
    if experiment is not None:
        header = encode(experiment, values.output, values.workdir, **shares)
        expect_complete(header, values.output)
        if is_main_host():
            size = sum(path.stat().st_size for path in expand_user(values.output).iterdir())
            print(
                f"{values.output}: {header.num_samples} samples in {header.num_shards} shards, "
                f"{size / 2**20:,.1f} MiB"
            )
    if values.parquet:
        files = export_parquet(values.output, values.parquet, values.id_offset, **shares)
        print(f"{values.parquet}: wrote {len(files)} Parquet files")


def _define(values):
    flags.DEFINE_string("output", None, "the cache's directory", flag_values=values)
    flags.DEFINE_string("workdir", "", "the run whose stages are used", flag_values=values)
    flags.DEFINE_string("parquet", "", "a directory to export the cache to", flag_values=values)
    flags.DEFINE_integer(
        "id_offset", 0, "added to ids in Parquet", lower_bound=0, flag_values=values
    )
