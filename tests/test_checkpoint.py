import logging
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from toklip_jax.core.errors import TryAgain
from toklip_jax.training import reading
from toklip_jax.training.checkpoints import Checkpoints
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.step import create_state


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch):
    monkeypatch.setattr(reading.time, "sleep", lambda seconds: None)


def state(width=3, **config):
    params = {"fc1": {"kernel": jnp.arange(2.0 * width).reshape(2, width), "bias": jnp.ones(width)}}
    return create_state(params, OptimizerConfig(**config), total_steps=10)


def saved(directory, *steps):
    with Checkpoints(directory) as checkpoints:
        for step in steps:
            checkpoints.save(step, state().replace(step=jnp.int32(step)))


def test_a_new_manager_restores_the_newest_state_to_the_bit(tmp_path):
    saved(tmp_path, 2, 4)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 4
        got, want = checkpoints.restore(state()), state().replace(step=jnp.int32(4))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_only_the_newest_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_save_cut_off_is_passed_over_and_cleared_by_the_next_save(tmp_path):
    saved(tmp_path, 2)
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 2
        # Orbax clears in a thread of its own, for which a save waits and closing does not.
        checkpoints.save(3, state())
        assert checkpoints.latest_step == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (state(width=4), r"fc1/bias: saved \(\(3,\), 'float32'\), wanted \(\(4,\), 'float32'\)"),
        (state(ema_decay=0.9), r"ema/fc1/bias: saved None, wanted"),
        (state(clip_norm=1.0), "of another model or optimizer"),
        (jax.tree.map(lambda x: x.astype(jnp.bfloat16), state()), "wanted .*'bfloat16'"),
    ],
)
def test_a_state_of_another_structure_shape_or_dtype_is_refused(other, message, tmp_path):
    saved(tmp_path, 2)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(other)


def test_restoring_without_a_checkpoint_is_a_clear_error(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="found none"):
        checkpoints.restore(state())


def test_checkpoints_of_some_steps_and_the_best_one_stay_too(tmp_path):
    with Checkpoints(tmp_path, keep=1, keep_every=4, best="recall") as checkpoints:
        for step, recall in zip(range(1, 8), (0.1, 0.2, 0.9, 0.4, 0.8, 0.5, 0.6), strict=True):
            checkpoints.save(step, state(), {"recall": recall, "loss": -step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "7"]


def test_a_checkpoint_says_what_run_it_is_of(tmp_path):
    with Checkpoints(tmp_path, description={"seed": 3, "loop": {"steps": 10}}) as checkpoints:
        checkpoints.save(1, state())
        checkpoints.wait()
        assert checkpoints.describe(1) == {"seed": 3, "loop": {"steps": 10}}


@pytest.mark.parametrize("damage", ["cut", "emptied"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_taken(damage, tmp_path, caplog):
    saved(tmp_path, 2, 4)
    files = [p for p in (tmp_path / "4" / "state").rglob("*") if p.is_file()]
    for path in files:
        os.truncate(path, path.stat().st_size // 2 if damage == "cut" else 0)
    with Checkpoints(tmp_path) as checkpoints, caplog.at_level(logging.WARNING):
        got = checkpoints.restore(state())
        assert int(got.step) == 2
        assert "checkpoint 4" in caplog.text
        assert "and 2 is taken" in caplog.text
        checkpoints.save(4, state().replace(step=jnp.int32(4)))  # there is room for it again
        assert checkpoints.latest_step == 4
    assert (tmp_path / "broken-4").exists()  # nothing is lost


def flip(path, place, bit=3):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


def largest(directory):
    """The files of a checkpoint, the largest first."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


@pytest.mark.parametrize("item", ["state", "description"])
def test_a_flipped_bit_in_any_file_never_gives_another_state(item, tmp_path):
    saved(tmp_path / "kept", 2, 4)
    rng, steps = np.random.default_rng(0), []
    for number, path in enumerate(largest(tmp_path / "kept" / "4" / item)):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "kept", copy)
        flip(copy / path.relative_to(tmp_path / "kept"), rng.integers(path.stat().st_size))
        with Checkpoints(copy) as checkpoints:
            got = checkpoints.restore(state())
        steps.append(int(got.step))
        want = state().replace(step=jnp.int32(steps[-1]))
        assert all(map(np.array_equal, jax.tree.leaves(got), jax.tree.leaves(want))), path
        assert (copy / "broken-4").exists() == (steps[-1] == 2)
    assert 2 in steps


def test_values_that_storage_changed_are_found_though_every_file_is_sound(tmp_path, caplog):
    """As if bits had flipped before the files were written: only the arrays' checksums know."""
    saved(tmp_path, 2, 4)
    wrong = state().replace(
        step=jnp.int32(4), params={"fc1": state().params["fc1"] | {"bias": 2 * jnp.ones(3)}}
    )
    with Checkpoints(tmp_path / "wrong") as checkpoints:
        checkpoints.save(4, wrong)
    shutil.rmtree(tmp_path / "4" / "state")
    shutil.copytree(tmp_path / "wrong" / "4" / "state", tmp_path / "4" / "state")
    with Checkpoints(tmp_path) as checkpoints, caplog.at_level(logging.WARNING):
        assert int(checkpoints.restore(state()).step) == 2
    assert "the checksums of 1 of" in caplog.text
    assert "params/fc1/bias" in caplog.text


def test_a_checkpoint_set_aside_again_deletes_none_that_was_before(tmp_path):
    for name in ("broken-4", "broken-4-2"):
        saved(tmp_path, 2, 4)
        shutil.rmtree(tmp_path / "4" / "state")
        with Checkpoints(tmp_path) as checkpoints:
            assert int(checkpoints.restore(state()).step) == 2
        assert (tmp_path / name / "description").exists()
    assert len(list(tmp_path.glob("broken-*"))) == 2


def test_storage_that_fails_for_a_moment_costs_no_checkpoint(tmp_path, monkeypatch):
    saved(tmp_path, 2, 4)
    real, calls = ocp.StandardCheckpointHandler.restore, []

    def failing(self, *arguments, **named):
        calls.append(1)
        if len(calls) <= failing.times:
            raise OSError("503 Service Unavailable")
        return real(self, *arguments, **named)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", failing)
    failing.times = 2
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state()).step) == 4
    failing.times = 99
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(TryAgain, match="503"):
        checkpoints.restore(state())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


def test_the_best_checkpoint_stays_after_a_resume_too(tmp_path):
    for steps in ((1, 2, 3), (4, 5, 6)):
        with Checkpoints(tmp_path, keep=1, best="recall") as checkpoints:
            for step in steps:
                recall = {"recall": float("nan") if step == 5 else 1 / step}
                checkpoints.save(step, state(), recall)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "6"]


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state())
        checkpoints.wait()

        def full(*args, **kwargs):
            raise ValueError(
                "RESOURCE_EXHAUSTED: ...: No space left on device [os_error_code='28']"
            )

        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(OSError, match=r"no space left in .*run the same command again"):
            checkpoints.save(2, state())
        assert checkpoints.latest_step == 1


def test_where_no_checkpoint_can_be_read_all_stay_where_they_are(tmp_path):
    saved(tmp_path, 2, 4)
    for path in [p for p in tmp_path.glob("*/state/**/*") if p.is_file()]:
        os.truncate(path, 0)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"none that can be read; 4: .*; 2: "):
            checkpoints.restore(state())
        assert checkpoints.latest_step == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


def test_another_mesh_restores_the_same_bits(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", ON_MESHES, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "4", "1", "8"]


ON_MESHES = """
import sys, jax, numpy as np
from toklip_jax.training.checkpoints import Checkpoints
from toklip_jax.parallel.sharding import make_mesh, shardings
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.step import create_state

rng = np.random.default_rng(0)
kernel = rng.normal(size=(16, 32)).astype("f")
params = {"mlp": {"fc1": {"kernel": kernel, "bias": np.ones(32, "f")}}}
host = jax.tree.map(np.asarray, create_state(params, OptimizerConfig(ema_decay=0.9), 10))

def placed(count, **sizes):
    mesh = make_mesh(sizes, jax.devices()[:count])
    return jax.device_put(host, shardings(host, mesh))

saved = placed(8, data=2, fsdp=2, tensor=2)
assert saved.params["mlp"]["fc1"]["kernel"].addressable_shards[0].data.shape == (8, 16)
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, saved)
    checkpoints.wait()
    others = (8, dict(fsdp=8)), (4, dict(fsdp=2, tensor=2)), (1, {}), (8, dict(data=8))
    for count, sizes in others:
        wanted = placed(count, **sizes)
        got = checkpoints.restore(wanted)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            assert a.sharding == b.sharding and a.dtype == b.dtype
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        print(count)
"""


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 9000])
def test_notes_of_orbax_that_are_damaged_cost_no_checkpoint(content, tmp_path):
    saved(tmp_path, 2, 4)
    (tmp_path / "4" / "_CHECKPOINT_METADATA").write_bytes(content)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state()).step) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


def test_notes_of_orbax_that_were_changed_are_one_clear_error(tmp_path):
    saved(tmp_path, 2)
    (tmp_path / "2" / "_CHECKPOINT_METADATA").write_text('{"init_timestamp_nsecs": "x"}')
    with pytest.raises(ValueError, match=f"own notes in {tmp_path}.*: delete the file"):
        Checkpoints(tmp_path)


def test_metadata_of_a_state_that_is_nested_too_deep_is_damage(tmp_path):
    saved(tmp_path, 2, 4)
    (tmp_path / "4" / "state" / "_METADATA").write_bytes(b"[" * 9000)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state()).step) == 2
    assert (tmp_path / "broken-4").exists()
