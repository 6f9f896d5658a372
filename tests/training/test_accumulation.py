"""A batch in chunks gives what the whole batch gives, with contrast and distillation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.siglip.sizes import TINY_TEXT, tiny
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.training.objective import Objective
from toklip_jax.training.state import merge, partition
from toklip_jax.training.step import gradients

pytestmark = pytest.mark.usefixtures("highest_precision")
BOUND = 1e-5  # relative to the largest entry of each array


@pytest.fixture(scope="module")
def case():
    text = dataclasses.replace(TINY_TEXT, context_length=4)
    vq = LlamaGenConfig(64, channels=32, multipliers=(1,), num_res_blocks=1, stem_patch=16)
    config = dataclasses.replace(TOKLIP_SIZES["tiny"], vq=vq, text=text, has_logit_bias=True)
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.integers(0, 256, (8, 64, 64, 3), np.uint8),
        "token_ids": rng.integers(0, 4, (8, 4), np.int32),
    }

    def make(**fields):
        return TokLIPObjective(
            config, tiny(False), Compute(), distillation_weight=1000.0, token_weight=10.0, **fields
        )

    params = jax.jit(make().init)(jax.random.key(1))
    return make, params, jax.tree.map(jnp.asarray, batch)


def run(objective, halves, batch, chunks):
    return program(objective, chunks)(*halves, batch)


@functools.cache
def program(objective, chunks):
    return jax.jit(lambda *args: gradients(objective, *args, jax.random.key(0), chunks=chunks))


SOFTMAX = ("softmax", ("token_encoder/.*", "logit_scale"))


@pytest.mark.parametrize(
    ("kind", "trainable"),
    [
        SOFTMAX,
        ("sigmoid", ("token_encoder/.*", "text_tower/.*", "logit_.*")),
    ],
)
def test_chunks_give_the_large_batch_with_distillation_on(case, kind, trainable):
    make, params, batch = case
    objective = make(contrastive=kind, contrastive_block=3, trainable=trainable)
    halves = partition(params, trainable)

    want, got = (run(objective, halves, batch, chunks) for chunks in (1, 4))
    assert float(want[1]["contrastive"]) > 0.1
    assert float(want[1]["distillation"]) > 0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=BOUND, atol=BOUND * float(jnp.abs(b).max()))
    norms = [float(jnp.abs(g).max()) for g in jax.tree.leaves(want[2])]
    assert min(norms) >= 0
    assert max(norms) > 1e-3


def test_chunks_do_not_average_the_contrastive_loss_of_small_batches(case):
    make, params, batch = case
    kind, trainable = SOFTMAX
    objective = make(contrastive=kind, contrastive_block=3, trainable=trainable)
    halves = partition(params, objective.trainable)
    whole, _, _ = run(objective, halves, batch, 4)
    quarter = jax.tree.map(lambda x: x[:2], batch)
    small, _ = jax.jit(objective.loss)(merge(*halves), quarter, jax.random.key(0))
    assert abs(float(whole) - float(small)) > 0.1


def test_chunks_that_do_not_divide_the_batch_are_refused(case):
    make, params, batch = case
    halves = partition(params, make().trainable)
    with pytest.raises(ValueError, match="divisible by accumulation, got 8 rows and 3"):
        gradients(make(), *halves, batch, jax.random.key(0), chunks=3)


def test_the_sigmoid_loss_trains_its_bias_unless_told_otherwise(case):
    make, _, _ = case
    assert make().trainable == ("token_encoder/.*", "logit_scale")
    assert make(contrastive="sigmoid").trainable == (*make().trainable, "logit_bias")
    given = ("logit_scale",)
    assert make(contrastive="sigmoid", trainable=given).trainable == given
    for loss in ({}, {"contrastive": "sigmoid"}, {"trainable": given}):
        assert TokLIPObjective.trained_by(loss) == make(**loss).trainable


def test_a_loss_that_is_not_made_of_encode_and_compare_is_not_taken_in_chunks():
    class Own(Objective):
        def loss(self, params, batch, rng):
            return jnp.sum(params["w"] * batch["x"]), {}

    batch, params = {"x": jnp.ones(4)}, {"w": jnp.float32(2)}
    loss, _, _ = gradients(Own(), params, {}, batch, jax.random.key(0), chunks=1)
    assert loss == 8
    with pytest.raises(ValueError, match="Own, which has a loss of its own: set accumulation to 1"):
        gradients(Own(), params, {}, batch, jax.random.key(0), chunks=2)
