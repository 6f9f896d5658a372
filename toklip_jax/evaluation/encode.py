"""Encodes a set of images batch by batch, on any mesh, to the rows that figures are made of.

Rows can be kept on disk part by part, so that an interrupted evaluation can resume.
"""

import collections
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from toklip_jax.evaluation.batches import read_together
from toklip_jax.evaluation.parts import Encoded, Parts
from toklip_jax.parallel.hosts import broadcast_from_main, gather_from_hosts, is_main_host
from toklip_jax.parallel.progress import Progress
from toklip_jax.parallel.sharding import put_batch, to_host

logger = logging.getLogger(__name__)
FIELDS = ("images", "ids", "labels", "token_ids", "mask")  # of a batch, that go to the devices

RowFunction = Callable[[Any, Any], dict[str, jax.Array]]  # parameters, batch -> rows


def encode(
    function: RowFunction,
    params: Any,
    batches: Callable[[int], Iterator[Mapping[str, Any]]],
    num_batches: int,
    *,
    mesh: jax.sharding.Mesh,
    title: str = "encode",
    parts: Parts | None = None,
) -> Encoded:
    """Encodes a set of images, all hosts together.

    Args:
        function: jitted; each row of its result depends on the same row of the batch alone.
        params: laid out over the mesh.
        batches: yields this host's rows of the batches from a number on, with `mask`; samples that
            the mask leaves out get no row.
        num_batches: the number of batches in all.
        title: the title of the progress bar.
        parts: where rows are kept; those that are there are read instead of encoded.

    Raises:
        Preempted: told to stop; what `parts` keeps is not encoded again.
    """
    collected = parts.read(num_batches) if parts and is_main_host() else []
    start = broadcast_from_main(len(collected))
    stream = batches(start) if start < num_batches else iter(())
    with Progress(title, num_batches, start) as progress:
        for number, batch in enumerate(read_together(stream), start):
            encoded = _encode_batch(function, params, batch, number, mesh)
            if is_main_host():
                if parts:
                    parts.write(number, encoded)
                collected.append(encoded)
            progress.advance()
    return _join(collected)


def text_batches(
    token_ids: np.ndarray, batch_size: int, start: int = 0, host: int = 0, hosts: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's rows of batches of `token_ids` [n, t] with `mask`, from batch `start` on.

    The last batch is filled up with the last row.
    """
    rows_here = batch_size // hosts
    for first in range(start * batch_size, len(token_ids), batch_size):
        rows = first + host * rows_here + np.arange(rows_here)
        inside = np.minimum(rows, len(token_ids) - 1)
        yield {"token_ids": token_ids[inside], "mask": rows < len(token_ids)}


def _encode_batch(function, params, batch, number, mesh) -> Encoded:
    arrays = {name: batch[name] for name in FIELDS if name in batch}
    with jax.set_mesh(mesh):
        rows = function(params, put_batch(arrays, mesh))
        mask = put_batch({"mask": arrays["mask"]}, mesh)
    rows = to_host(rows)  # on every host, as all must take part
    mask = np.asarray(to_host(mask)["mask"])
    skipped = _count_skipped(batch.get("skipped", []))
    if not is_main_host():
        return Encoded({}, {})
    rows = {name: np.asarray(value)[mask] for name, value in rows.items()}
    index = number * len(mask) + np.flatnonzero(mask)
    return Encoded(rows | {"index": index}, skipped)


def _count_skipped(problems) -> dict[str, int]:
    for key, cause in problems:
        logger.warning("skipped %s: %s", key, cause)
    here = dict(collections.Counter(cause for _, cause in problems))
    return _add(gather_from_hosts(here))


def _add(counts) -> dict[str, int]:
    return dict(sum(map(collections.Counter, counts), collections.Counter()))


def _join(collected) -> Encoded:
    if not collected:
        return Encoded({}, {})
    names = collected[0].rows
    rows = {name: np.concatenate([part.rows[name] for part in collected]) for name in names}
    return Encoded(rows, _add(part.skipped for part in collected))
