"""A host that can't read ends all hosts at the same step, with all steps before it saved."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from line_fit import Line, batches

from toklip_jax.training import host_batches
from toklip_jax.training.host_batches import HostBatches
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import partition
from toklip_jax.training.step import MISSING, create_state, make_step

HERE = pathlib.Path(__file__).parent


def test_a_step_with_missing_rows_changes_nothing_but_says_so():
    optimizer = OptimizerConfig(0.3, 1)
    step = jax.jit(make_step(Line(), optimizer, 5))
    trainable, frozen = partition(Line().init(None), Line.trainable)
    state, batch = create_state(trainable, optimizer, 5), next(batches(0))
    marked, is_marked = np.zeros(8, bool), {MISSING: np.arange(8) == 3}
    same, metrics = step(state, frozen, batch | is_marked)
    for got, want in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(got, want)
    assert (metrics[MISSING], metrics["is_skipped"]) == (1, 0)
    plain, _ = step(state, frozen, batch)
    other, metrics = step(state, frozen, batch | {MISSING: marked})
    assert metrics[MISSING] == 0
    for got, want in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.fixture
def two_hosts(monkeypatch):
    """The other host is well, unless its failure is put into the list."""
    others = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(host_batches, "call_on_all", lambda work: work())
    monkeypatch.setattr(host_batches, "gather_from_hosts", lambda mine: [*others, mine])
    return others


def take(source, steps, is_missing=None):
    """The batches of some steps, each of which is checked when it is taken."""
    found = HostBatches(lambda: next(source))
    for number in range(steps):
        batch = found.fetch()
        yield batch
        flag = batch[MISSING].any() if is_missing is None else is_missing(number)
        found.check({MISSING: jnp.float32(flag)}, must_know=False)


def failing(after):
    for number in range(after):
        yield {"x": np.full(2, number)}
    raise OSError("no such shard")


def test_a_host_that_fails_takes_part_with_marked_rows_until_all_know(two_hosts):
    seen = take(failing(after=2), 9)
    taken = [next(seen) for _ in range(5)]
    assert [(int(b["x"][0]), bool(b[MISSING].all())) for b in taken] == [
        (0, False), (1, False), (1, True), (1, True), (1, True),
    ]  # fmt: skip
    with pytest.raises(OSError, match="no such shard"):
        next(seen)


def test_the_others_end_with_its_error(two_hosts):
    two_hosts.append("OSError: no such shard")
    seen = take(failing(after=9), 9, is_missing=lambda number: number >= 2)
    assert len([next(seen) for _ in range(5)]) == 5
    with pytest.raises(ValueError, match="host 0 met an error: OSError: no such shard"):
        next(seen)


SCRIPT = """
import sys
host, port, here, directory = sys.argv[1:]
sys.path.append(here)
import jax
import jax.numpy as jnp
from line_fit import Line, batches
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.training.loop import train
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.optimizer import OptimizerConfig

jax.distributed.initialize(f"localhost:{port}", 2, int(host))

def source(start):
    for step, batch in enumerate(batches(start), start):
        if step == 5 and host == "1":
            raise OSError("no such shard")
        yield {name: rows[int(host)::2] for name, rows in batch.items()}

try:
    train(
        Line(), Line().init(None), source, optimizer=OptimizerConfig(0.3, 2),
        config=LoopConfig(40, log_every=100, save_every=100), mesh=make_mesh({"data": 2}),
        directory=directory,
    )
except (OSError, ValueError) as error:
    print("ended:", error)
"""


@pytest.mark.slow
def test_two_processes_save_the_steps_before_one_of_them_fails(run_on_two_hosts, tmp_path):
    (_, first), (_, second) = run_on_two_hosts(SCRIPT, HERE, tmp_path / "run")
    assert "ended: host 1 met an error: OSError: no such shard" in first
    assert "ended: no such shard" in second
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*")]
    assert saved == ["5"], f"{first}\n{second}"
