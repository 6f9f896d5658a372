"""Starts a program on several hosts, whose processes find each other by config or environment.

`jax.distributed.initialize()` raises outside a cluster and, under Slurm, takes one GPU a process;
here it is called only where there are several processes, with what each cluster needs.

JAX's runtime ends a process that waits in vain for the others after 5 minutes, by a signal and
without an exception; so after a minute a line says what it is waiting for. On some TPU slices JAX's
port, 8482, is closed: `JAX_COORDINATOR_PORT=8476`, in the environment of every host.
"""

import dataclasses
import importlib.util
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from typing import Any

import jax

from toklip_jax.core.errors import UserError

KINDS = ("auto", "none", "explicit", "slurm", "tpu")
HINT_SECONDS = 60.0  # of waiting, after which a line says what for
METADATA_TRIES = 3  # a process of a pod that started alone would leave the others waiting
METADATA_SECONDS = 3.0  # Google's metadata server is one hop away, or does not exist
# What JAX reads of a Slurm step; srun sets them, sbatch alone does not.
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
SLURM_STEP += ("SLURM_LOCALID",)
EVERY_HOST = "a TPU pod program must be started on every host"


class StartError(RuntimeError):
    """The processes did not find each other; not a ValueError, as another try may succeed."""


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
    """The settings by which processes find each other; the environment takes precedence.

    Attributes:
        kind: "none" never; "explicit" by the other fields; "slurm" by the step's environment;
            "tpu" by the pod's metadata; "auto" by whichever says that there are several processes:
            a coordinator, a Slurm step, a TPU pod, in this order.
        coordinator: host:port of process 0, or `TOKLIP_COORDINATOR`.
        num_processes: the number of processes, or `TOKLIP_NUM_PROCESSES`.
        process_id: this process's number, from 0, or `TOKLIP_PROCESS_ID`.
    """

    kind: str = "auto"
    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"expected distributed.kind of {KINDS}, got {self.kind!r}")


def start(config: ProcessesConfig | None = None) -> bool:
    """Connects this process with the others of the program, before any device is used.

    Returns:
        Whether there are several processes, now connected.

    Raises:
        ValueError: settings that are incomplete or don't fit; says which.
        StartError: the others could not be reached.
    """
    config = config or ProcessesConfig()
    kind = config.kind
    if kind == "none":
        return False
    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    environ = os.environ
    explicit = _explicit(config, environ)
    kind = _detect(explicit, environ) if kind == "auto" else kind
    arguments = {
        "none": lambda: None,
        "explicit": lambda: _check_explicit(*explicit),
        "slurm": lambda: _slurm(environ),
        "tpu": lambda: _tpu(environ),
    }[kind]()
    if arguments is None:
        return False
    _initialize(kind, arguments)
    return True


def _initialize(kind: str, arguments: Mapping[str, Any]) -> None:
    hint = EVERY_HOST if kind == "tpu" else "is it started on every host, with equal settings?"
    what = f"the other {arguments['num_processes'] - 1} processes" if arguments else "the TPU pod"
    if address := arguments.get("coordinator_address"):
        what += f", which meet at {address}"
    timer = threading.Timer(HINT_SECONDS, _say, [f"still waiting for {what}: {hint}"])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(**arguments)
    except Exception as error:  # sockets', gRPC's, the metadata server's: there is no common class
        if "before any JAX" in str(error):
            raise
        text = " ".join(str(error).split())
        raise StartError(f"could not reach {what}: {hint} ({text})") from error
    finally:
        timer.cancel()


def _say(text: str) -> None:
    print(f"toklip_jax: {text}", file=sys.stderr, flush=True)


def _detect(explicit: tuple[str, int, int], environ: Mapping[str, str]) -> str:
    """Returns the kind that says that there are several processes, or "none"."""
    if explicit[0] or explicit[1] > 1 or explicit[2] >= 0:
        return "explicit"
    if _slurm_count(environ) > 1:
        if all(name in environ for name in SLURM_STEP):
            return "slurm"
        warnings.warn(
            "in a Slurm job of several tasks, but not started by srun: this process runs alone",
            stacklevel=3,
        )
    return "tpu" if _tpu_workers(environ) > 1 else "none"


def _explicit(config: ProcessesConfig, environ) -> tuple[str, int, int]:
    """Returns the settings; those of the environment take precedence over the config's."""
    coordinator = environ.get("TOKLIP_COORDINATOR") or config.coordinator
    count = _number("TOKLIP_NUM_PROCESSES", environ, config.num_processes)
    return coordinator, count, _number("TOKLIP_PROCESS_ID", environ, config.process_id)


def _number(name: str, environ: Mapping[str, str], default: int = 0) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"-?\d+", text.strip()):
        raise UserError(f"expected a whole number in {name}, got {text!r}")
    return int(text)


def _check_explicit(coordinator, num_processes, process_id) -> dict[str, Any] | None:
    got = f"coordinator={coordinator!r}, num_processes={num_processes}, process_id={process_id}"
    if not coordinator or num_processes < 1 or process_id < 0:
        raise UserError(
            f"expected all of coordinator, num_processes and process_id, in the config's section "
            f"distributed or as TOKLIP_COORDINATOR, ..._NUM_PROCESSES, ..._PROCESS_ID; got {got}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"expected a coordinator of host:port, got {coordinator!r}")
    if process_id >= num_processes:
        raise UserError(f"expected a process_id from 0 to {num_processes - 1}, got {process_id}")
    if num_processes == 1:
        return None
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",  # all local devices, whatever cluster it is
    }


def _slurm_count(environ: Mapping[str, str]) -> int:
    # A step may have fewer tasks than its job, such as the one that holds an interactive shell.
    return _number("SLURM_STEP_NUM_TASKS", environ) or _number("SLURM_NTASKS", environ)


def _slurm(environ: Mapping[str, str]) -> dict[str, Any] | None:
    if missing := [name for name in SLURM_STEP if name not in environ]:
        raise UserError(
            f"expected a step that srun started (distributed.kind is slurm), found no "
            f"{', '.join(missing)} in the environment: start it with srun"
        )
    count = _slurm_count(environ)
    if count == 1:
        return None
    arguments = {"num_processes": count, "process_id": _number("SLURM_PROCID", environ)}
    if _sees_own_gpus(environ):
        # No restriction: left out, JAX would take the one GPU of this task's number on the node.
        arguments["local_device_ids"] = []
    return arguments


def _sees_own_gpus(environ: Mapping[str, str]) -> bool:
    """Returns whether all GPUs that this task sees are its own, and not shared with other tasks."""
    tasks = _tasks_here(environ)
    visible = len(re.findall(r"[^,\s]+", environ.get("CUDA_VISIBLE_DEVICES", "")))
    on_node = _number("SLURM_GPUS_ON_NODE", environ)
    if tasks == 1 or visible == 1 or 0 < visible < on_node:
        return True
    if visible and visible != tasks:
        raise UserError(
            f"expected one Slurm task a node or one a GPU, got {tasks} tasks that all see "
            f"{visible} GPUs: set --ntasks-per-node=1, or {visible}"
        )
    return False


def _tasks_here(environ: Mapping[str, str]) -> int:
    """Reads "4(x2),3": four tasks on each of two nodes, three on the next."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "1"
    counts = []
    for tasks, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(tasks)] * int(nodes or 1)
    return counts[min(_number("SLURM_NODEID", environ), len(counts) - 1)]


def _tpu(environ: Mapping[str, str]) -> dict[str, Any] | None:
    workers = _tpu_workers(environ)
    if not workers:
        raise UserError(
            "expected a TPU pod (distributed.kind is tpu), found neither TPU_WORKER_HOSTNAMES in "
            "the environment, as on GKE, nor a TPU VM's metadata"
        )
    return None if workers == 1 else {}  # JAX reads them itself


def _tpu_workers(environ: Mapping[str, str]) -> int:
    """Returns how many processes a TPU pod has, 0 if nothing says that there is one.

    GKE says it in the environment, and a TPU VM's metadata server on request. When JAX is imported,
    it finds out whether there is a TPU, and sets TPU_SKIP_MDS_QUERY if there is none.
    """
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    slices = _number("MEGASCALE_NUM_SLICES", environ)
    if not hosts and "TPU_SKIP_MDS_QUERY" not in environ and _has_libtpu():
        hosts = _metadata("worker-network-endpoints", environ)
        found = re.search(r"MEGASCALE_NUM_SLICES\s*:\s*'?(\d+)", _metadata("tpu-env", environ))
        slices = int(found[1]) if found else slices
    return len(hosts.split(",")) * max(slices, 1) if hosts else slices


def _has_libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def _metadata(key: str, environ: Mapping[str, str]) -> str:
    host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{key}",
        headers={"Metadata-Flavor": "Google"},
    )
    for _ in range(METADATA_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=METADATA_SECONDS) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            return ""  # it answers, and has no such key
        except OSError:
            time.sleep(0.5)
    warnings.warn(f"no answer from the TPU's metadata server, asked for {key}", stacklevel=5)
    return ""
