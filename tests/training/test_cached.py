"""A step on cached ids and features is the step on the same crops, without the frozen towers."""

import dataclasses
import functools
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data.small_cache import make_header
from toklip_jax.costs.flops import count_flops
from toklip_jax.data.cache import HEADER, load_header
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.models.siglip.sizes import TINY_TEXT, tiny
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.tasks.toklip.cached import CACHED, cached_rows, expect_vq, unused_parameters
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import partition, shapes_of, split, with_zeros
from toklip_jax.training.step import create_state, gradients, make_step

BATCH = 8
BOUND = 1e-4  # relative to the largest entry; towers compiled alone round otherwise, 2e-5 here
COMPUTE = Compute()
TEXT = dataclasses.replace(TINY_TEXT, context_length=4)
CONFIG = dataclasses.replace(TOKLIP_SIZES["tiny"], text=TEXT, has_logit_bias=False)


def make(**fields):
    fields = {"compute": COMPUTE} | fields
    return TokLIPObjective(CONFIG, tiny(False), **fields)


@pytest.fixture(scope="module")
def case():
    """Parameters, images with texts, what a cache holds of them in float32, and the step's results.

    Those are (loss, metrics, gradient) of the images.
    """
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32)

    params = jax.tree.map(draw, jax.eval_shape(make().init, jax.random.key(0)))
    params["logit_scale"] = jnp.float32(2)
    images = {
        "images": jnp.asarray(rng.integers(0, 256, (BATCH, 64, 64, 3), np.uint8)),
        "token_ids": jnp.asarray(rng.integers(0, 512, (BATCH, 4), np.int32)),
    }

    def encode(params, batch):
        made = make().prepare(params, batch)
        return made | {"text_feature": make().text_feature(params, batch["token_ids"])}

    with jax.default_matmul_precision("highest"):
        cached = jax.jit(encode)(params, images)
        return params, images, cached, gradient(make(), params, images)


def rounded(cached):
    """The values that bfloat16 has, in float32: what runs is the same program."""
    return {
        name: value.astype(jnp.bfloat16).astype(jnp.float32) if name in CACHED else value
        for name, value in cached.items()
    }


@functools.cache
def step_of(objective, chunks):
    key = jax.random.key(0)
    return jax.jit(lambda t, f, batch: gradients(objective, t, f, batch, key, chunks=chunks))


def gradient(objective, params, batch, chunks=1):
    return step_of(objective, chunks)(*partition(params, objective.trainable), batch)


def assert_close(got, want, bound):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound * float(jnp.abs(b).max()))


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.usefixtures("highest_precision")
def test_loss_and_gradient_are_those_of_the_same_crops(case, chunks):
    params, _, cached, want = case
    assert float(want[1]["distillation"]) > 1e-3
    assert_close(gradient(make(), params, cached, chunks), want, BOUND)
    # Of features in bfloat16, 8 bits: an entry moves by 2^-9 of itself at most.
    in_bfloat16 = gradient(make(), params, rounded(cached), chunks)
    assert_close(in_bfloat16[0], want[0], 2**-8)
    assert_close(in_bfloat16, want, 2**-5)


@pytest.mark.usefixtures("highest_precision")
def test_a_cache_of_less_leaves_more_to_compute_and_gives_the_same(case):
    params, _, cached, want = case
    without_text = {name: value for name, value in cached.items() if name != "text_feature"}
    assert_close(gradient(make(), params, without_text), want, BOUND)
    only_ids = {name: cached[name] for name in ("ids", "token_ids")}
    contrast = make(distillation_weight=0.0)
    loss, metrics = jax.jit(contrast.loss)(params, only_ids, jax.random.key(0))
    assert "distillation" not in metrics
    assert_close(loss, want[1]["contrastive"], BOUND)


def test_the_step_holds_neither_vq_nor_teacher_nor_text_tower(case):
    params, images, *_ = case
    objective, optimizer = make(), OptimizerConfig(learning_rate=1e-3)
    unused = unused_parameters(objective, params, CACHED)
    tops = {name.split("/")[0] for name in unused}
    assert tops == {"vq", "teacher", "text_tower"}
    trainable, frozen = partition(params, objective.trainable)
    unused_tree, needed = split(frozen, unused)
    kept = flax.traverse_util.flatten_dict(needed, sep="/")
    assert set(kept) == {"vq/codebook"}  # what ids are looked up in
    state = jax.eval_shape(lambda p: create_state(p, optimizer, 10), trainable)
    rows = cached_rows(make(), CACHED, BATCH)
    step = make_step(objective, optimizer, 10, unused=shapes_of(unused_tree))

    def student(trainable, batch):
        everything = with_zeros(trainable, shapes_of(frozen))
        loss = objective.loss(everything, batch, jax.random.key(0))[0]
        return loss

    def parts(params, batch):
        made = objective.prepare(params, batch)
        return made, objective.text_feature(params, batch["token_ids"])

    shapes = shapes_of(params), shapes_of(images)
    without = count_flops(step, state, shapes_of(needed), rows)
    assert without == count_flops(jax.value_and_grad(student), shapes_of(trainable), rows)
    whole = count_flops(make_step(objective, optimizer, 10), state, shapes_of(frozen), shapes[1])
    assert whole == without + count_flops(parts, *shapes)
    # And of the compiled program: no convolution, and no weights of what is unused.
    text = jax.jit(step).lower(state, shapes_of(needed), rows).as_text()
    assert "convolution" not in text
    sizes = {x.shape for x in jax.tree.leaves(split(frozen, unused)[0]) if x.size > 10_000}
    lost = sizes - {x.shape for x in jax.tree.leaves(trainable)}
    assert lost
    assert not [s for s in lost if f"tensor<{'x'.join(map(str, s))}xf32>" in text]


def test_what_the_loss_needs_and_the_cache_lacks_is_refused(case):
    params, _, cached, _ = case
    only_ids = {name: cached[name] for name in ("ids", "token_ids")}
    with pytest.raises(ValueError, match=r"teacher_feature in the cache for distillation_weight"):
        make().prepare(params, only_ids)
    with pytest.raises(ValueError, match="expected token_weight 0 with a cache"):
        make(token_weight=10.0).prepare(params, cached)


def test_features_are_of_length_one_again(case):
    params, _, cached, _ = case
    short = {n: v.astype(jnp.bfloat16) if n in CACHED else v for n, v in cached.items()}
    prepared = make().prepare(params, short)
    feature = prepared["teacher_feature"]
    assert feature.dtype == jnp.float32
    np.testing.assert_allclose(feature, l2_normalize(feature), rtol=1e-6)


def test_ids_of_the_same_weights_under_another_config_are_refused(tmp_path):
    """At unit length or raw, and by distance or inner product, the same codes give other ids."""
    config = json.loads(json.dumps(config_to_dict(CONFIG.vq)))
    make_header(vq=config).save(tmp_path)
    header = load_header(tmp_path)
    expect_vq(header, tmp_path, CONFIG.vq)
    other = dataclasses.replace(CONFIG.vq, is_l2_normalised=False)
    with pytest.raises(ValueError, match=r"got those of LlamaGenConfig\(.*is_l2_normalised=True"):
        expect_vq(header, tmp_path, other)


def test_caches_of_before_the_config_was_there_are_read(tmp_path):
    make_header().save(tmp_path)
    data = json.loads((tmp_path / HEADER).read_text())
    del data["vq"], data["checksum"]
    (tmp_path / HEADER).write_text(json.dumps(data))
    expect_vq(load_header(tmp_path), tmp_path, CONFIG.vq)
