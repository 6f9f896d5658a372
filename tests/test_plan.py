"""Plans: of the devices at hand, and (slow, with libtpu) of a TPU topology that isn't here."""

import importlib.util
import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from toklip_jax.cli import train as command
from toklip_jax.cli.plan import main
from toklip_jax.experiment import read_experiment
from toklip_jax.nn.config import Compute
from toklip_jax.planning.plan import Plan, largest_batch, topology_devices
from toklip_jax.planning.step import image_size
from toklip_jax.tasks.registry import task_of

XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "tests" / "training" / "tiny_run.py"
RELEASED = ("toklip_s_256", "toklip_l_384", "toklip_xl_512")


def plan_of(*flags, devices=8):
    done = subprocess.run(
        [sys.executable, "-m", "toklip_jax.plan", *flags],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count={devices}",
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_eight_local_devices_are_planned_for():
    """Of a stage that starts from other stages, which say its sizes."""
    flags = ("--config.compute.is_scanned=True", "--config.compute.remat=full")
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=4")
    found = json.loads(plan_of("--json", f"--config={CONFIG}", *flags, *mesh))
    assert found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    assert found["chips"] == 8
    # AdamW holds two numbers a parameter, and a step count; both lie on the mesh as they do.
    assert found["optimizer"] == pytest.approx(2 * found["parameters"], rel=1e-2)
    assert found["peak"] >= found["parameters"] + found["optimizer"] + found["frozen"]
    assert found["model_flops"] < found["flops"] * 8  # rematerialised
    assert found["collectives"]["all-gather"][1] > 0
    assert found["seconds"] == {}  # nobody knows how fast these are


ARRAYS = {"kind": "synthetic", "num_samples": 8, "image_size": 24}
MIXTURE = {"kind": "mixture", "parts": ({"weight": 1.0, **ARRAYS}, {"weight": 2.0, **ARRAYS})}
FOLDER = {"kind": "image_folder", "root": "pictures"}


@pytest.mark.parametrize(
    ("source", "size"), [(ARRAYS, (24, 24)), (MIXTURE, (24, 24)), (FOLDER, (16, 16))]
)
def test_a_stage_is_planned_for_the_size_that_its_images_will_have(source, size, caplog):
    config = runpy.run_path(str(CONFIG))["get_config"]()
    config.stages, config.source, config.image_size = ("vq",), source, 16
    config.evaluate, config.models = (), {}
    experiment = read_experiment(config)
    assert image_size(experiment, experiment.stages[0]) == size
    assert ("arrays keep their image_size" in caplog.text) == (size != (16, 16))


@pytest.mark.parametrize(
    ("name", "tokens"), [("toklip_s_256", 256), ("toklip_l_384", 576), ("toklip_xl_512", 1024)]
)
def test_released_configs_name_their_sizes(name, tokens):
    (stage,) = read_experiment(released(name)).stages
    objective = task_of(stage.task).outline(stage, {}, Compute())
    assert objective.model_config.vision.num_tokens == tokens
    assert objective.teacher_config.num_tokens == tokens
    assert objective.model_config.vision.is_causal
    assert not objective.model_config.has_logit_bias


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected --config=..., got none"),
        ([f"--config={CONFIG}", "--stage=tocklip"], "did you mean 'toklip'"),
        ([f"--config={CONFIG}", "--config.compute.dtype=float31"], "expected a dtype"),
        (
            [f"--config={CONFIG}", "--config.toklip.init.vq=a.pt"],
            "expected toklip.size and toklip.teacher_size",
        ),
        ([f"--config={CONFIG}", "--config.toklip.batch_size=0"], "batch"),
        (["--nonsense=1"], "nonsense"),
    ],
)
def test_bad_flags_give_one_clear_error(flags, message, capsys):
    assert main([*flags]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def made_up(batch, hbm=1000):
    """A plan whose memory is 100 bytes and 2 an image."""
    peak = 100 + 2 * batch
    if peak > hbm:
        return None
    mesh = {"data": 1, "fsdp": 8, "tensor": 1}
    return Plan(
        device_kind="made up",
        chips=8,
        mesh=mesh,
        batch=batch,
        accumulation=1,
        parameters=50,
        frozen=20,
        optimizer=30,
        activations=2 * batch,
        peak=peak,
        hbm=hbm,
        model_flops=1,
        flops=1.0,
        traffic=1,
        collectives={},
        largest_gather=(0, ""),
        seconds={},
    )


def test_the_largest_batch_is_found_in_few_compiles():
    tried = []

    def try_batch(batch):
        tried.append(batch)
        return made_up(batch)

    best = largest_batch(try_batch, made_up(64), ways=8)
    assert best % 8 == 0
    assert 0.9 * 1000 < made_up(best).peak <= 1000
    assert len(tried) <= 3


def released(name, *flags):
    path = ROOT / "configs" / f"{name}.py"
    return command.parse([f"--config={path}", "--workdir=.", *flags]).config


@pytest.mark.parametrize("name", RELEASED)
def test_steps_and_learning_rate_follow_the_batch_until_they_are_set(name):
    def read(*flags):
        return released(name, *flags).toklip

    usual = read()
    assert usual.loop.steps == 32 * 10_968_539 // usual.batch_size
    assert usual.optimizer.learning_rate == 1e-5
    larger = read(f"--config.toklip.batch_size={4 * usual.batch_size}")
    assert larger.loop.steps == usual.loop.steps // 4
    assert larger.optimizer.learning_rate == pytest.approx(2e-5)
    fixed = read(
        "--config.toklip.batch_size=128",
        "--config.toklip.loop.steps=7",
        "--config.toklip.optimizer.learning_rate=3e-5",
    )
    assert (fixed.loop.steps, fixed.optimizer.learning_rate) == (7, 3e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [(None, "expected libtpu .* pip install"), (True, "topology that libtpu knows, .*: no such")],
)
def test_a_topology_that_cannot_be_had_says_why(spec, message, monkeypatch):
    def fail(**_):
        raise RuntimeError("no such topology")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=message):
        topology_devices("v6e:16x16")


@pytest.mark.slow
def test_the_full_size_fits_a_v5e_pod():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("NOT CHECKED: libtpu is not installed (pip install 'jax[tpu]')")
    flags = ("--json", "--config=configs/toklip_s_256.py", "--topology=v5e:16x16")
    found = json.loads(plan_of(*flags))
    assert found["chips"] == 256
    assert found["peak"] < found["hbm"]
    # All texts' features in float32, which the contrastive loss needs; all else is smaller: a
    # layer's weights, not a stack's.
    assert found["largest_gather"][0] == found["batch"] * 1152 * 4
