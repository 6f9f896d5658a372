"""The generator's training against five recorded steps of LlamaGen's optimizer."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.nn.config import Compute
from toklip_jax.tasks.generator.objective import GeneratorObjective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import merge, partition
from toklip_jax.training.step import create_state, make_step
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

STEPS = 5
RUNS = {
    "c2i_lr1e-4": (1e-4, 2e-5),  # learning rate, and bound of the final weights
    "c2i_zero_output_lr1e-3": (1e-3, 5e-5),
    "t2i_lr1e-4": (1e-4, 2e-5),
}


def start(golden, run):
    """(weights, objective): of the recorded start, without dropout."""
    weights = read_weights(golden(f"gpt_{run[:3]}_tiny/checkpoint.safetensors"))
    if "zero_output" in run:
        params = jax.tree.map(np.array, weights.params)
        params["gpt"]["head"]["codes_0"][:] = 0
        weights = dataclasses.replace(weights, params=params)
    gpt = dataclasses.replace(weights.config.gpt, dropout=0.0)
    config = dataclasses.replace(weights.config, gpt=gpt)
    compute = Compute(is_scanned=weights.is_scanned)
    return weights, GeneratorObjective(config, compute)


def batch_of(inputs, step, is_of_captions):
    batch = {
        "ids": jnp.asarray(inputs[f"ids_{step}"]),
        "is_dropped": jnp.asarray(inputs[f"drop_{step}"]) == 1,
    }
    if not is_of_captions:
        return batch | {"labels": jnp.asarray(inputs[f"class_ids_{step}"])}
    valid = inputs[f"mask_{step}"][:, 0, -1, : inputs[f"caption_{step}"].shape[1]]
    return batch | {
        "captions": jnp.asarray(inputs[f"caption_{step}"]),
        "valid": jnp.asarray(valid.astype(bool)),
        "mask": jnp.asarray(inputs[f"valid_{step}"]) == 1,
    }


@pytest.mark.parametrize("run", RUNS)
def test_five_steps_equal_the_recorded_ones(golden, run):
    record = json.loads(golden("train_gpt_tiny/record.json").read_text())["runs"][run]
    inputs = np.load(golden(f"train_gpt_tiny/inputs_{run[:3]}.npz"))
    rate, bound = RUNS[run]
    weights, objective = start(golden, run)
    optimizer = OptimizerConfig(
        rate, 0, eps=1e-8, weight_decay=0.05, clip_norm=1.0, schedule="constant"
    )
    trainable, frozen = partition(jax.tree.map(jnp.asarray, weights.params), objective.trainable)
    state, step = create_state(trainable, optimizer, STEPS), make_step(objective, optimizer, STEPS)
    step = jax.jit(step)
    for i, want in enumerate(record["steps"]):
        state, metrics = step(state, frozen, batch_of(inputs, i, run.startswith("t2i")))
        np.testing.assert_allclose(metrics["loss"], want["loss"], rtol=2e-6)
        np.testing.assert_allclose(metrics["grad_norm"], want["grad_norm_before_clip"], rtol=1e-5)
        np.testing.assert_allclose(metrics["learning_rate"], want["lr"], rtol=1e-6)
    final = dataclasses.replace(weights, params=merge(state.params, frozen))
    got = export_tensors(final)
    want = read_checkpoint(golden(f"train_gpt_tiny/final_{run}.safetensors")).tensors
    assert set(got) == set(want)
    for name, array in want.items():
        error = np.asarray(got[name], np.float64) - np.asarray(array, np.float64)
        assert np.abs(error).max() < bound, name
        assert np.sqrt((error**2).mean()) < 1e-6, name


def test_the_first_loss_of_zero_heads_is_that_of_uniform_guesses(golden):
    weights, objective = start(golden, "c2i_zero_output_lr1e-3")
    batch = {"ids": jnp.zeros((2, 16), jnp.int32), "labels": jnp.zeros(2, jnp.int32)}
    loss, _ = objective.loss(weights.params, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, np.log(512), rtol=1e-6)


def test_a_batch_without_a_row_that_counts_has_the_recorded_loss_of_zero(golden):
    weights, objective = start(golden, "t2i_lr1e-4")
    inputs = np.load(golden("train_gpt_tiny/inputs_t2i.npz"))
    batch = batch_of(inputs, 0, is_of_captions=True)
    none = batch | {"mask": jnp.zeros(len(batch["ids"]), bool)}

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return objective.loss(params, none, jax.random.key(0))[0]

    value, gradients = loss(jax.tree.map(jnp.asarray, weights.params))
    recorded = np.load(golden("gpt_t2i_tiny/outputs.npz"))["train_loss_valid_all_zero"]
    assert float(value) == float(recorded) == 0
    assert all(not np.any(x) for x in jax.tree.leaves(gradients))
