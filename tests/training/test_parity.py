"""The training step against the PyTorch recipe's recorded gradients, losses and weights.

Bounds are the recordings' README's; a step moves a weight by about the learning rate, so weights
are compared by their update.
"""

import dataclasses
import functools
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.files.rules import to_torch
from toklip_jax.models.registry import TOKLIP
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.training.optimizer import OptimizerConfig, decay_mask
from toklip_jax.training.state import merge, partition
from toklip_jax.training.step import create_state, make_step
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

RTOL = 1e-5  # of losses, gradient norm and logit scale; float32 noise is 7e-7


@pytest.fixture(autouse=True)
def _node(request):
    assert_close.node = request.node


@pytest.fixture(scope="module")
def recipe(golden):
    """Objective, trainable and frozen parameters, batch."""
    toklip = read_weights(golden("toklip_tiny/checkpoint.pt"))
    teacher = read_weights(golden("teacher_tiny/checkpoint.safetensors"))
    config = dataclasses.replace(toklip.config, has_logit_bias=False)
    params = {name: value for name, value in toklip.params.items() if name != "logit_bias"}
    params = jax.tree.map(jnp.asarray, params | {"teacher": teacher.params["image_tower"]})
    compute = Compute(is_scanned=False)
    objective = TokLIPObjective(config, teacher.config.vision, compute)
    inputs = np.load(golden("train_tiny/inputs.npz"))
    batch = {"images": inputs["image_u8_nhwc"], "token_ids": inputs["token_ids"]}
    batch = jax.tree.map(jnp.asarray, batch)
    return objective, *partition(params, objective.trainable), batch


@pytest.fixture(scope="module")
def record(golden):
    return json.loads(golden("train_tiny/record.json").read_text())


def torch_names(params):
    flat = flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")
    rules = TOKLIP.keys.rules(TOKLIP.sizes["tiny"], "", "")
    return {name: np.asarray(array) for name, array in to_torch(flat, rules, {}).items()}


@pytest.fixture(scope="module")
def trained(recipe, record):
    """`trained("lr1e-5")` is the trainable parameters and metrics after every step of a run."""
    objective, start, frozen, batch = recipe

    @functools.cache
    def train(run):
        recorded, trainable = record[run], start
        if "initial_logit_scale" in recorded:
            trainable = start | {"logit_scale": jnp.float32(recorded["initial_logit_scale"])}
        config = OptimizerConfig(recorded["base_lr"], recorded["warmup"])
        total = recorded["total_steps"]
        state = create_state(trainable, config, total)
        step, history = jax.jit(make_step(objective, config, total)), []
        for _ in recorded["steps"]:
            state, metrics = step(state, frozen, batch)
            history.append((state.params, metrics))
        return history

    return train


def test_gradients_of_step_0_are_the_recorded_ones(recipe, golden):
    objective, trainable, frozen, batch = recipe
    want = np.load(golden("train_tiny/grads_step0.npz"))

    @jax.jit
    def gradient(trainable):
        return jax.grad(lambda p: objective.loss(merge(p, frozen), batch, jax.random.key(0))[0])(
            trainable
        )

    got = torch_names(gradient(trainable))
    assert set(got) == set(want.files)
    for name in want.files:
        assert_close(got[name], want[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("run", ["lr1e-5", "lr1e-3", "clamp_lr1e-5"])
def test_training_record_is_reproduced(trained, record, run):
    for want, (params, metrics) in zip(record[run]["steps"], trained(run), strict=True):
        assert_close(metrics["contrastive"], want["contrastive_loss"])
        assert_close(1000 * metrics["distillation"], want["distill_loss"])
        assert_close(metrics["loss"], want["loss"])
        assert_close(metrics["grad_norm"], want["grad_norm"])
        assert_close(metrics["learning_rate"], want["lr"])
        assert_close(metrics["logit_scale"], want["logit_scale_exp"])
        assert_close(params["logit_scale"], want["logit_scale_after_clamp"])


@pytest.mark.parametrize(("run", "atol", "rms"), [("lr1e-5", 5e-6, 1e-6), ("lr1e-3", 5e-4, 1e-5)])
def test_weights_after_ten_steps_are_the_recorded_ones(recipe, trained, run, atol, rms, golden):
    want = read_checkpoint(golden(f"train_tiny/final_{run}.safetensors")).tensors
    got = torch_names(trained(run)[-1][0])
    assert set(got) == set(want)
    for name in want:
        assert_close(got[name], want[name], atol=atol, rtol=0)
    differences = np.concatenate([(got[n] - want[n]).ravel() for n in want])
    assert np.sqrt(np.mean(differences**2)) < rms
    start = torch_names(recipe[1])
    updates = np.concatenate([(want[n] - start[n]).ravel() for n in want])
    assert np.sqrt(np.mean(updates**2)) > 10 * rms  # so that the bound tells something


def test_decay_reaches_the_tensors_that_the_recipe_decays(recipe, golden):
    groups = json.loads(golden("train_tiny/param_groups.json").read_text())
    trainable = recipe[1]
    mask = decay_mask(trainable)
    # A map of booleans can't be rearranged as arrays: full arrays of them can.
    full = jax.tree.map(lambda x, is_decayed: np.full(x.shape, is_decayed), trainable, mask)
    decayed = {name for name, value in torch_names(full).items() if value.all()}
    assert decayed == set(groups["decay"])
    assert set(torch_names(trainable)) - decayed == set(groups["no_decay"])


def test_frozen_parameters_are_neither_trained_nor_in_the_state(recipe, trained):
    _, trainable, frozen, _ = recipe
    assert set(trainable) == {"token_encoder", "logit_scale"}
    assert set(frozen) == {"vq", "text_tower", "teacher"}
    assert set(trained("lr1e-5")[-1][0]) == set(trainable)


def assert_close(got, want, rtol=RTOL, atol=0.0):
    difference = np.max(np.abs(np.asarray(got) - want))
    relative = not atol
    error = difference / abs(want) if relative else difference
    name = f"largest error ({'relative' if relative else 'absolute'}, bound {atol or rtol:g})"
    assert_close.node.user_properties.append((name, float(error)))
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=atol)
