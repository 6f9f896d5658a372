"""Worker processes end with the main process, and are replaced where they are lost."""

import os
import signal
import subprocess
import sys
import time

import grain
import numpy as np
import pytest

from tests.kill_resume import is_alive
from toklip_jax.core.errors import TryAgain
from toklip_jax.data import workers
from toklip_jax.data.workers import MAX_LOST, read_ahead

OPTIONS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
LOST = RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search the logs")


class Broken:
    """Gives the elements of a slice, and raises at each of the elements `at` the first time."""

    def __init__(self, at, error=LOST, first=0):
        self.at, self.error, self.first = at, error, first

    def __getitem__(self, rows):
        return Broken(self.at, self.error, rows.start)

    def __iter__(self):
        for element in range(self.first, 10):
            if element in self.at:
                self.at.remove(element)
                raise self.error
            yield element


@pytest.fixture
def without_processes(monkeypatch):
    monkeypatch.setattr(workers, "_prefetching", lambda dataset, number, options: dataset)


@pytest.mark.usefixtures("without_processes")
def test_what_lost_workers_would_have_read_comes_from_new_ones(caplog):
    assert list(read_ahead(Broken([0, 3, 3, 9]), 1, OPTIONS)) == list(range(10))
    assert caplog.text.count("killed, as the system does when memory runs out") == 4


@pytest.mark.usefixtures("without_processes")
def test_workers_that_are_lost_again_and_again_end_the_run_for_another_try():
    stream = read_ahead(Broken([4] * MAX_LOST), 1, OPTIONS)
    assert [next(stream) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(TryAgain, match=r"lost 3 times in a row .*lower num_workers"):
        next(stream)


@pytest.mark.usefixtures("without_processes")
def test_an_error_of_the_data_is_raised_as_it_is():
    error = RuntimeError("no such picture")
    with pytest.raises(RuntimeError, match="no such picture"):
        list(read_ahead(Broken([2], error), 1, OPTIONS))


SCRIPT = """
import itertools, multiprocessing, sys
import grain
from toklip_jax.data.workers import read_ahead

if __name__ == "__main__":
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    stream = read_ahead(grain.MapDataset.range(10**6), 1, options)
    print(next(stream), multiprocessing.active_children()[0].pid, flush=True)
    for line in sys.stdin:
        print(*itertools.islice(stream, 50), flush=True)
"""


@pytest.fixture
def reading(tmp_path):
    """A program that reads with a worker process, and its id."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py"]
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    program = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        text=True,
    )
    first, worker = map(int, program.stdout.readline().split())
    assert first == 0
    yield program, worker
    program.kill()
    program.communicate()


def test_a_worker_leaves_signals_to_the_main_process_and_ends_with_it(reading):
    program, worker = reading
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker, number)
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline().split() == [str(i) for i in range(1, 51)]
    assert is_alive(worker)
    program.kill()
    program.wait()
    deadline = time.monotonic() + 15
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(worker)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_nothing_is_lost(reading):
    program, worker = reading
    os.kill(worker, signal.SIGKILL)
    program.stdin.write("\n" * 5)
    program.stdin.flush()
    read = [int(word) for _ in range(5) for word in program.stdout.readline().split()]
    np.testing.assert_array_equal(read, np.arange(1, 251))
