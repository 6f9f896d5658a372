"""The start on several hosts: what JAX is told in each environment, and two real processes."""

import http.server
import os
import re
import socket
import subprocess
import sys
import threading

import jax
import pytest

from toklip_jax.parallel import hosts
from toklip_jax.parallel import start as distributed

XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
PREFIXES = ("TOKLIP_", "SLURM_", "TPU_", "MEGASCALE_", "CUDA_VISIBLE", "JAX_COORD", "GCE_METADATA")
EXPLICIT = {"TOKLIP_COORDINATOR": "host0:1234", "TOKLIP_NUM_PROCESSES": "4"}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
FOUR_A_NODE = SLURM | {
    "SLURM_NTASKS": "7",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
}
GKE = {"TPU_WORKER_HOSTNAMES": "w-0.pods,w-1.pods", "TPU_WORKER_ID": "1"}


def clean():
    return {n: v for n, v in os.environ.items() if not n.startswith(PREFIXES)}


@pytest.fixture
def environ(monkeypatch):
    """No cluster, whatever this runs on; `environ(NAME=value)` adds to it."""
    for name in set(os.environ) - set(clean()):
        monkeypatch.delenv(name)
    # As JAX does where it finds no TPU; it is not asked again here.
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")

    def add(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return add


@pytest.fixture
def calls(monkeypatch):
    """What `jax.distributed.initialize` was called with, in place of calling it."""
    recorded = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: recorded.append(given))
    return recorded


def start(*fields, **others):
    return distributed.start(distributed.ProcessesConfig(*fields, **others))


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_a_single_process_starts_nothing_and_touches_no_device(environ, calls, monkeypatch, kind):
    monkeypatch.setattr(jax, "process_count", lambda: pytest.fail("a device was asked for"))
    assert start(kind) is False
    assert not calls


def test_none_ignores_every_environment(environ, calls):
    environ(EXPLICIT | SLURM | GKE)
    assert start("none") is False
    assert not calls


@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_a_coordinator_of_the_config_is_passed_on(environ, calls, kind):
    assert start(kind, "host0:1234", 4, 3) is True
    assert calls == [
        {
            "coordinator_address": "host0:1234",
            "num_processes": 4,
            "process_id": 3,
            "cluster_detection_method": "deactivate",
        }
    ]


def test_the_environment_goes_before_the_config(environ, calls):
    environ(EXPLICIT | {"TOKLIP_PROCESS_ID": "0"})
    assert start("auto", "other:1", 2, 1)
    assert calls[0]["coordinator_address"] == "host0:1234"
    assert (calls[0]["num_processes"], calls[0]["process_id"]) == (4, 0)


def test_auto_prefers_a_coordinator_to_slurm_and_slurm_to_a_pod(environ, calls):
    environ(SLURM | GKE)
    assert start()
    environ(EXPLICIT | {"TOKLIP_PROCESS_ID": "2"})
    assert start()
    assert [sorted(c) for c in calls] == [
        ["local_device_ids", "num_processes", "process_id"],
        ["cluster_detection_method", "coordinator_address", "num_processes", "process_id"],
    ]


def test_one_explicit_process_needs_no_start(environ, calls):
    assert start("explicit", "host0:1234", 1, 0) is False
    assert not calls


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "host0:1234"}, "expected all of coordinator, num_processes and process"),
        ({"num_processes": 2}, "expected all of coordinator"),
        ({"process_id": 0}, "expected all of coordinator"),
        ({"coordinator": "host0:1", "num_processes": 2}, "process_id=-1"),
        ({"coordinator": "host0:1", "num_processes": 2, "process_id": 2}, "from 0 to 1, got 2"),
        ({"coordinator": "host0", "num_processes": 2, "process_id": 0}, "host:port, got 'host0'"),
        ({"coordinator": "host0:x", "num_processes": 2, "process_id": 0}, "host:port"),
        ({"coordinator": ":12", "num_processes": 2, "process_id": 0}, "host:port"),
        ({"coordinator": "h:70000", "num_processes": 2, "process_id": 0}, "host:port"),
        ({"kind": "explicit"}, "expected all of coordinator"),
        ({"kind": "mpi"}, "expected distributed.kind of"),
        ({"kind": "slurm"}, "start it with srun"),
        ({"kind": "tpu"}, "expected a TPU pod"),
    ],
)
def test_what_a_user_can_fix_is_one_sentence(environ, calls, given, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        start(**given)
    assert "\n" not in str(raised.value)
    assert not calls


def test_a_number_in_the_environment_is_checked(environ, calls):
    environ(EXPLICIT | {"TOKLIP_PROCESS_ID": "first"})
    with pytest.raises(ValueError, match="whole number in TOKLIP_PROCESS_ID, got 'first'"):
        start()


@pytest.mark.parametrize("kind", ["auto", "slurm"])
@pytest.mark.parametrize("gpus", [{}, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}])
def test_one_slurm_task_a_node_keeps_all_gpus(environ, calls, kind, gpus):
    environ(SLURM | gpus)
    assert start(kind)
    assert calls == [{"num_processes": 2, "process_id": 1, "local_device_ids": []}]


def test_one_slurm_task_a_gpu_is_left_to_jax(environ, calls):
    environ(FOUR_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2", "SLURM_GPUS_ON_NODE": "3"})
    assert start()
    assert calls == [{"num_processes": 7, "process_id": 6}]


@pytest.mark.parametrize("visible", ["5", "4,5"])
def test_gpus_that_slurm_bound_to_the_task_are_all_its_own(environ, calls, visible):
    environ(FOUR_A_NODE | {"CUDA_VISIBLE_DEVICES": visible, "SLURM_GPUS_ON_NODE": "8"})
    assert start()
    assert calls[0]["local_device_ids"] == []


def test_slurm_tasks_that_share_gpus_unevenly_are_refused(environ, calls):
    environ(FOUR_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "SLURM_GPUS_ON_NODE": "8"})
    with pytest.raises(ValueError, match="3 tasks that all see 8 GPUs: set --ntasks-per-node=1"):
        start()


def test_a_slurm_step_of_one_task_in_a_larger_job_goes_alone(environ, calls):
    environ(SLURM | {"SLURM_STEP_NUM_TASKS": "1"})
    assert start() is False
    assert start("slurm") is False
    assert not calls


def test_a_slurm_job_without_srun_goes_alone_and_says_so(environ, calls):
    environ({"SLURM_JOB_ID": "17", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"})
    with pytest.warns(UserWarning, match="not started by srun"):
        assert start() is False
    with pytest.raises(ValueError, match="found no SLURM_STEP_NODELIST, SLURM_LOCALID"):
        start("slurm")
    assert not calls


@pytest.mark.parametrize(
    ("pod", "is_several"),
    [
        (GKE, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, True),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "tpu"])
def test_a_pod_on_gke_is_left_to_jax(environ, calls, kind, pod, is_several):
    environ(pod)
    assert start(kind) is is_several
    assert calls == [{}] * is_several


class Metadata(http.server.BaseHTTPRequestHandler):
    values: dict[str, str]

    def do_GET(self):
        assert self.headers["Metadata-Flavor"] == "Google"
        value = self.values.get(self.path.rpartition("/")[2])
        self.send_response(404 if value is None else 200)
        self.end_headers()
        self.wfile.write((value or "").encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def metadata(environ, monkeypatch):
    """A TPU VM: libtpu, and a metadata server that answers with the values given."""
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    monkeypatch.setattr(distributed, "_has_libtpu", lambda: True)

    def serve(**values):
        handler = type("Handler", (Metadata,), {"values": values})
        server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        environ({"GCE_METADATA_IP": f"localhost:{server.server_address[1]}"})

    servers = []
    yield lambda values: serve(**values)
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("values", "is_several"),
    [
        ({"worker-network-endpoints": "unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2"}, True),
        ({"worker-network-endpoints": "unknown:unknown:10.0.0.1"}, False),
        (
            {"worker-network-endpoints": "host", "tpu-env": "A: 'b'\nMEGASCALE_NUM_SLICES: '2'\n"},
            True,
        ),
    ],
)
def test_a_tpu_vm_is_asked_how_many_workers_its_pod_has(metadata, calls, values, is_several):
    metadata(values)
    assert start() is is_several
    assert calls == [{}] * is_several


def test_a_metadata_server_without_a_pod_means_one_process(metadata, calls):
    metadata({})
    assert start() is False
    assert not calls


def test_a_silent_metadata_server_is_told(metadata, environ, calls, monkeypatch):
    monkeypatch.setattr(distributed.time, "sleep", lambda seconds: None)
    environ({"GCE_METADATA_IP": "localhost:1"})
    with pytest.warns(UserWarning, match="no answer from the TPU's metadata server"):
        assert start() is False


def test_a_pod_whose_hosts_are_missing_says_to_start_every_one(environ, monkeypatch):
    def fails(**given):
        raise RuntimeError("Failed to recognize\ncoordinator address w-0")

    environ(GKE)
    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(distributed.StartError, match="must be started on every host") as raised:
        start()
    assert "\n" not in str(raised.value)


def test_a_second_start_is_none(environ, calls, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    environ(GKE)
    assert start() is True
    assert not calls


def test_one_process_is_the_main_host_and_waits_for_nobody():
    assert hosts.is_main_host()
    hosts.barrier("alone")
    assert hosts.call_on_main(lambda: {"a": [1]}) == {"a": [1]}
    with pytest.raises(FileExistsError, match="taken"):
        hosts.call_on_main(fails)


def fails():
    raise FileExistsError("taken")


WORKER = """
import sys
import jax
from jax._src import xla_bridge
from jax.sharding import PartitionSpec as P
from toklip_jax.core.errors import AlreadyExists
from toklip_jax.parallel import hosts
from toklip_jax.parallel.start import start

assert start() is True
assert start() is True  # and no second time
assert jax.process_count() == 2 and jax.local_device_count() == 4, jax.devices()
assert xla_bridge.CUDA_VISIBLE_DEVICES.value == "all", xla_bridge.CUDA_VISIBLE_DEVICES.value
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
mine = jax.numpy.full(4, jax.process_index() + 1.0)
x = jax.make_array_from_process_local_data(jax.sharding.NamedSharding(mesh, P("data")), mine)
total = jax.shard_map(
    lambda a: jax.lax.psum(a, "data"), mesh=mesh, in_specs=P("data"), out_specs=P()
)

def fails():
    assert hosts.is_main_host()
    raise AlreadyExists("taken")

assert hosts.call_on_main(lambda: [jax.process_index()]) == [0]
try:
    hosts.call_on_main(fails)
except (ValueError, OSError) as error:
    print("met", error)
hosts.barrier("before the end")
print("total", float(jax.jit(total)(x)[0]), hosts.is_main_host(), flush=True)
"""


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def spawn(code, environ):
    environ = clean() | environ | {"JAX_PLATFORMS": "cpu"}
    environ["XLA_FLAGS"] = f"{XLA_FLAGS} --xla_force_host_platform_device_count=4"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", ["explicit", "slurm"])
def test_two_processes_start_and_sum_over_all_their_devices(kind):
    port = str(free_port())
    if kind == "explicit":
        common = {"TOKLIP_COORDINATOR": f"localhost:{port}", "TOKLIP_NUM_PROCESSES": "2"}
        name = "TOKLIP_PROCESS_ID"
    else:  # one task on each of two nodes, which both are this machine
        common = SLURM | {"SLURM_STEP_NODELIST": "localhost", "JAX_COORDINATOR_PORT": port}
        name = "SLURM_PROCID"
    workers = [spawn(WORKER, common | {name: str(i)}) for i in range(2)]
    try:
        outputs = [worker.communicate(timeout=60) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [w.returncode for w in workers] == [0, 0], outputs
    assert "total 12.0 True" in outputs[0][0]  # 4 devices of 1 and 4 of 2
    assert "total 12.0 False" in outputs[1][0]
    assert "met taken" in outputs[0][0]
    assert "met host 0 met an error: AlreadyExists: taken" in outputs[1][0]


def test_a_process_that_waits_for_others_says_so():
    code = (
        "from toklip_jax.parallel import start\n"
        "start.HINT_SECONDS = 0.2\n"
        f"config = start.ProcessesConfig('explicit', 'localhost:{free_port()}', 3, 0)\n"
        "start.start(config)\n"
    )
    worker = spawn(code, {})
    try:
        line = next(line for line in worker.stderr if line.startswith("toklip_jax:"))
    finally:
        worker.kill()
        worker.communicate()
    assert "still waiting for the other 2 processes, which meet at localhost:" in line
    assert "started on every host" in line
