import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.checkpoint import Checkpoints
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.step import create_state


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
