"""Two real processes restore one checkpoint, which one of them can't read at first, or ever."""

import pytest

WORKER = """
import sys
import jax
rank, port, folder, failures = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
jax.distributed.initialize(f"localhost:{port}", 2, rank, cluster_detection_method="deactivate")
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from toklip_jax.core.errors import TryAgain
from toklip_jax.training import reading
from toklip_jax.training.checkpoints import Checkpoints

reading.DELAYS_OF_STORAGE = (0.1, 0.1)
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))

def state(value):
    rows = np.full((1,), value, np.float32)
    return {"x": jax.make_array_from_callback((2,), sharding, lambda index: rows)}

with Checkpoints(folder, keep=3) as checkpoints:
    for step in (10, 20):
        checkpoints.save(step, state(step))
        checkpoints.wait()
restore, calls = ocp.StandardCheckpointHandler.restore, []

def failing(self, *arguments, **named):
    calls.append(1)
    if rank == 1 and len(calls) <= failures:
        raise OSError("stale file handle")
    return restore(self, *arguments, **named)

ocp.StandardCheckpointHandler.restore = failing
with Checkpoints(folder, keep=3) as checkpoints:
    try:
        print("taken", checkpoints.restore(state(0))["x"].addressable_shards[0].data[0])
    except TryAgain as error:
        print("both met", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failures", "printed"), [(1, "taken 20.0"), (9, "both met checkpoint 20 in")]
)
def test_both_take_the_same_step_or_both_end(run_on_two_hosts, failures, printed, tmp_path):
    outputs = [output for _, output in run_on_two_hosts(WORKER, tmp_path, failures)]
    assert all(printed in output for output in outputs), outputs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20"]
