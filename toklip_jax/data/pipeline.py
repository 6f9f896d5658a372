"""Batches from a source, by Grain: the step number alone decides which samples come.

The order and the augmentation of step s are a function of seed and s, whatever the number of
worker processes and of hosts: each host takes its own rows of each batch of the same sequence, and
a run resumes by starting at its step. (Grain's own iterator state depends on the worker count.)

Batches of a source with `key(index)` also hold two plain lists: `keys`, the names of its samples,
and `skipped`, (name, cause) of each bad sample that another one replaces (see `reader`).
"""

from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.data.reader import KEY, SKIPPED, Reader
from toklip_jax.data.sources import Source
from toklip_jax.data.transforms import Sample, Transform
from toklip_jax.data.workers import read_ahead

Batch = dict[str, Any]  # arrays, and the lists `keys` and `skipped`
# Threads of each process (decoding holds the interpreter's lock, so more don't help), and batches.
_READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
_ENDLESS = 2**62  # samples; Grain's own end, sys.maxsize, overflows in batches of one


def batches(
    source: Source,
    transform: Transform | None,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Returns an endless iterator of shuffled batches, one permutation of the source per epoch.

    Epochs follow each other without a break: a batch may span two. A mixture's parts have their
    own epochs.

    Args:
        transform: applied to each sample with a generator of its own; pickled if there are workers.
        batch_size: samples in a batch, all hosts together.
        start_step: batches to leave out, which costs no time.
        num_workers: processes that read; 0 reads in this one.
        host: this host's index of `hosts`; it gets its `batch_size / hosts` rows of each batch, so
            that all hosts' rows, one after another, are the batch that one host would get.

    Raises:
        ValueError: the source is empty, or sizes don't fit; says which.
    """
    _check(source, batch_size, start_step, host, hosts)
    # Before hosts take their shares: the randomness belongs to the place in the whole sequence.
    dataset = _order(source, seed).random_map(Reader(source, transform))[:_ENDLESS]
    dataset = _share(dataset, batch_size, host, hosts)[start_step:]
    return read_ahead(dataset, num_workers, _READ_OPTIONS)


def evaluation_batches(
    source: Source,
    batch_size: int,
    transform: Transform | None = None,
    num_workers: int = 0,
    host: int = 0,
    hosts: int = 1,
    start: int = 0,
) -> Iterator[Batch]:
    """Returns an iterator over the source once, in order, with `mask` bool [b]: which rows count.

    The last batch is padded with the last sample. A bad sample is replaced as in training, and
    its row doesn't count. All hosts have the same number of batches.

    Args:
        transform: see `batches`.
        batch_size: samples in a batch, all hosts together.
        host: see `batches`.
        start: batches to leave out, where an evaluation resumes; may be all of them.

    Raises:
        ValueError: the source is empty, sizes don't fit, or the start is past the end; says which.
    """
    _check(source, batch_size, start, host, hosts)
    number = -(-len(source) // batch_size)
    if start > number:
        raise UserError(f"expected a start of at most the {number} batches there are, got {start}")
    rows = grain.MapDataset.range(number * batch_size).seed(0)
    dataset = rows.random_map(_Masked(Reader(source, transform)))
    dataset = _share(dataset, batch_size, host, hosts)[start:]
    return read_ahead(dataset, num_workers, _READ_OPTIONS)


class _Masked:
    """Reads a row of an evaluation: its sample, and in `mask` whether it counts."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def __call__(self, row: int, rng: np.random.Generator) -> Sample:
        last = len(self.reader.source) - 1
        sample = self.reader(min(row, last), rng)
        if row > last and SKIPPED in sample:
            sample[SKIPPED] = []  # the last sample's own row has named them
        return sample | {"mask": np.bool_(row <= last and not sample.get(SKIPPED))}


class _Add:
    def __init__(self, start: int):
        self.start = start

    def __call__(self, index: int) -> int:
        return self.start + index


def _order(source, seed):
    """Returns the endless sequence of a source's indices; a mixture interleaves its parts'."""
    if not hasattr(source, "weights"):
        return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    seeds = np.random.SeedSequence(seed).generate_state(len(source.parts)).tolist()
    parts = [
        _order(part, part_seed).map(_Add(start))
        for part, part_seed, start in zip(source.parts, seeds, source.starts, strict=True)
    ]
    return grain.MapDataset.mix(parts, source.weights).seed(seed)


def _share(dataset, batch_size, host, hosts):
    """Returns the batches of a host, which takes one of `hosts` equal parts of each batch."""
    return dataset.batch(batch_size // hosts, batch_fn=_stack)[host::hosts]


def _stack(samples):
    names = _fields(samples[0])
    if mixed := [sample for sample in samples if sample.keys() != samples[0].keys()]:
        raise UserError(
            f"expected samples of the same fields, got {sorted(names)} and "
            f"{sorted(_fields(mixed[0]))}: give the parts of a mixture the same ones"
        )
    batch: Batch = {name: np.stack([sample[name] for sample in samples]) for name in names}
    if KEY in samples[0]:
        batch["keys"] = [sample[KEY] for sample in samples]
        batch["skipped"] = [problem for sample in samples for problem in sample[SKIPPED]]
    return batch


def _fields(sample):
    return [name for name in sample if not name.startswith("_")]


def _check(source, batch_size, start, host, hosts):
    if len(source) == 0:
        raise UserError("expected a source with samples, got an empty one: check its path")
    if hosts < 1 or not 0 <= host < hosts:
        raise UserError(f"expected host in [0, {hosts}), got {host}")
    if batch_size < 1 or batch_size % hosts:
        raise UserError(
            f"expected a batch_size that is a multiple of the {hosts} hosts, got {batch_size}"
        )
    if start < 0:
        raise UserError(f"expected a start of at least 0, got {start}")
