"""Worker processes that read: they end with the main process, and are replaced where they are lost.

The system may kill one, for memory above all. As the step number alone decides which samples come,
new ones continue with the batch that is next.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import grain
from absl import flags

from toklip_jax.core.errors import TryAgain

logger = logging.getLogger(__name__)
MAX_LOST = 3  # times that workers are lost before a batch comes, after which a run gives up
SECONDS_AFTER_SIGTERM = 20  # that a worker keeps reading for the main process's last step
_LOST = "terminated unexpectedly"  # in Grain's error where a worker process is gone


def read_ahead(dataset: Any, num_workers: int, options: grain.ReadOptions) -> Iterator[Any]:
    """Yields the elements of a `MapDataset`, which threads of one or several processes prefetch.

    The processes end when it is closed or dropped.

    Args:
        num_workers: processes besides this one; 0 reads in this one.

    Raises:
        TryAgain: workers were lost `MAX_LOST` times in a row.
    """
    done = lost = 0
    while True:
        iterator = iter(_prefetching(dataset[done:], num_workers, options))
        try:
            for element in iterator:
                done, lost = done + 1, 0
                yield element
            return
        except RuntimeError as error:
            if _LOST not in str(error):
                raise
            lost += 1
            if lost == MAX_LOST:
                raise TryAgain(
                    f"worker processes were lost {lost} times in a row ({_reason(error)})"
                ) from error
            logger.warning("a worker process was lost (%s): new ones are started", _reason(error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()


def _prefetching(dataset, num_workers, options):
    dataset = dataset.to_iter_dataset(options)
    if not num_workers:
        return dataset
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # workers take over the flags; a script may have none
    processes = grain.MultiprocessingOptions(num_workers=num_workers)
    return dataset.mp_prefetch(processes, worker_init_fn=start_worker)


def start_worker(index: int, count: int) -> None:
    """Prepares a worker process: it ends when the main process does, however that ends.

    Signals that a terminal or a scheduler sends to all processes are the main process's to answer:
    it still needs batches for its last step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_AFTER_SIGTERM))
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _end_with_parent():
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _reason(error):
    code = str(error).partition("exit code ")[2].partition(".")[0]
    if code == str(-signal.SIGKILL):
        return "killed, as the system does when memory runs out: lower num_workers"
    return f"exit code {code}" if code else str(error)
