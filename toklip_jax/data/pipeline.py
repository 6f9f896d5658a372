"""Batches from a source of random access, by Grain: the step number alone says what comes.

The order and the augmentation of step s are a function of seed and s, whatever the number of
worker processes and of hosts: each host takes every `hosts`-th sample of the same sequence, and a
run resumes by starting at its step. (Grain's own iterator state depends on the worker count.)
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from toklip_jax.data.transforms import Sample, Transform

Batch = dict[str, np.ndarray]
_READ_THREADS = 2  # of each process; decoding holds the interpreter's lock, so more don't help
_READ_AHEAD = 4  # batches


@runtime_checkable
class Source(Protocol):
    """Samples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


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

    Epochs follow each other without a break: a batch may span two.

    Args:
        transform: applied per sample with a generator of its own; pickled if there are workers.
        batch_size: of all hosts together.
        start_step: batches to pass over; costs nothing.
        num_workers: processes; 0 reads in this one.
        host: this host's index of `hosts`; it gets `batch_size / hosts` rows.

    Raises:
        ValueError: an empty source, or sizes that don't fit; says which.
    """
    _check(source, batch_size, start_step, host, hosts)
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    if transform is not None:
        # Before the slice: the randomness belongs to the sample's place in the whole sequence.
        dataset = dataset.random_map(transform)
    dataset = dataset[host::hosts].batch(batch_size // hosts, batch_fn=_stack)[start_step:]
    ahead = grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_READ_AHEAD)
    dataset = dataset.to_iter_dataset(ahead)
    if num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # workers take over the flags; a script may have none
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return _closing(dataset)


def evaluation_batches(source: Source, batch_size: int) -> Iterator[Batch]:
    """Yields the source once, in order, with `mask` bool [b]: which rows count.

    The last batch is filled up with the last sample.
    """
    last = len(source) - 1
    for start in range(0, len(source), batch_size):
        rows = np.arange(start, start + batch_size)
        batch = _stack([source[min(row, last)] for row in rows.tolist()])
        yield batch | {"mask": rows <= last}


def _closing(dataset: Any) -> Iterator[Batch]:
    """Ends the worker processes when the iterator is closed or dropped."""
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def _stack(samples):
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def _check(source, batch_size, start_step, host, hosts):
    if len(source) == 0:
        raise ValueError("expected a source with samples, got an empty one: check its path")
    if hosts < 1 or not 0 <= host < hosts:
        raise ValueError(f"expected host in [0, {hosts}), got {host}")
    if batch_size < 1 or batch_size % hosts:
        raise ValueError(
            f"expected a batch_size that is a multiple of the {hosts} hosts, got {batch_size}"
        )
    if start_step < 0:
        raise ValueError(f"expected a start_step of at least 0, got {start_step}")
