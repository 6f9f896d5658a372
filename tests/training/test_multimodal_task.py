"""The multimodal task: its loss in blocks and chunks, what it trains, and its starts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_multimodal import (
    COMPUTE,
    CONFIG,
    LANGUAGE_MODEL,
    TOKLIP,
    VOCABULARY,
    lines,
    params_of,
)
from toklip_jax.losses.next_token import next_token_sums, targets_of
from toklip_jax.losses.plain import cross_entropy
from toklip_jax.models.serialization import config_from_dict, config_to_dict
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.tasks.base import StageConfig, Start
from toklip_jax.tasks.multimodal.objective import LORA, MultimodalObjective
from toklip_jax.tasks.multimodal.task import MULTIMODAL
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.optimizer import OptimizerConfig, make_optimizer
from toklip_jax.training.state import partition
from toklip_jax.training.step import gradients
from toklip_jax.weights import Weights

pytestmark = pytest.mark.usefixtures("highest_precision")

TRAINED = (r"projector_\w+/.*", "image_embed", LORA)


def objective_of(**fields):
    return MultimodalObjective(CONFIG, COMPUTE, trainable=TRAINED, **fields)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(objective, chunks, batch):
    trainable, frozen = partition(params_of(), TRAINED)
    return gradients(objective, trainable, frozen, batch, jax.random.key(0), chunks=chunks)


def expect_close(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(b).max()))


def test_blocks_of_the_loss_equal_the_plain_one_with_gradients():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 7, 5)), rng.standard_normal((5, 11))
    labels = rng.integers(0, 11, (2, 7))
    labels[0, 2:4] = labels[1, 5:] = -100
    targets, counts = targets_of(jnp.asarray(labels))

    def plain(x, kernel):
        logits = x @ kernel
        shifted = jnp.maximum(jnp.asarray(labels)[:, 1:], 0)
        nats = cross_entropy(logits[:, :-1], shifted)
        nats += 0.1 * jax.nn.logsumexp(logits[:, :-1], -1) ** 2
        return jnp.sum(nats * (labels[:, 1:] >= 0)) / np.sum(labels[:, 1:] >= 0)

    def blocks(block, x, kernel):
        weights = jnp.where(counts, 1.0, 0)
        sums = next_token_sums(x, targets, weights, lambda y: y @ kernel, z_loss=0.1, block=block)
        return sums.loss / sums.weight

    args = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    want = jax.value_and_grad(plain, (0, 1))(*args)
    for block in (0, 3, 7):
        got = jax.value_and_grad(functools.partial(blocks, block), (0, 1))(*args)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_a_label_at_the_start_of_a_segment_is_nobodys_target():
    labels = jnp.asarray([[5, 6, 7, 8]])
    targets, counts = targets_of(labels, jnp.asarray([[1, 1, 2, 2]]))
    np.testing.assert_array_equal(counts, [[True, False, True, False]])
    np.testing.assert_array_equal(targets, [[6, 0, 8, 0]])


def test_chunks_of_different_token_counts_equal_one():
    batch = lines(4) | {"mask": np.array([True, True, True, False])}
    batch["labels"][0, 8:] = -100  # few tokens in the first chunk
    objective = objective_of(image_weight=0.5, z_loss=1e-3, loss_block=5)
    want, got = (run(objective, chunks, batch) for chunks in (1, 2))
    expect_close(got, want)
    plain = run(dataclasses.replace(objective, loss_block=0), 1, batch)
    expect_close(plain, want)


def test_the_loss_is_the_weighted_mean_over_tokens():
    batch, objective = jax.tree.map(jnp.asarray, lines(2)), objective_of(image_weight=0.25)
    loss, metrics = objective.loss(params_of(), batch, jax.random.key(0))
    model = objective.model
    inputs = model.apply(
        {"params": params_of()}, batch["image_ids"].reshape(4, 4), method="image_inputs"
    ).reshape(2, 2, 4, -1)
    names = ("ids", "image_places", "segment_ids", "positions")
    ids, places, segments, positions = (batch[name] for name in names)
    logits = model.apply(
        {"params": params_of()}, ids, places, inputs, segments, positions, method="logits"
    )
    total = weight = 0.0
    for row in range(2):
        for t in range(1, ids.shape[1]):
            if segments[row, t] != segments[row, t - 1]:
                continue
            if places[row, t] >= 0:
                label = VOCABULARY + batch["image_ids"][row].reshape(-1)[places[row, t]]
                share = 0.25
            elif batch["labels"][row, t] >= 0:
                label, share = batch["labels"][row, t], 1.0
            else:
                continue
            total -= share * jax.nn.log_softmax(logits[row, t - 1])[label]
            weight += share
    np.testing.assert_allclose(loss, total / weight, rtol=1e-5)
    np.testing.assert_allclose(metrics["nats_per_token"], loss, rtol=1e-6)


def stage_of(section, **loss):
    fields = MULTIMODAL.read(section, "answer")
    return StageConfig(
        "answer", "multimodal", fields, loss, OptimizerConfig(), LoopConfig(steps=1), 2, None
    )


@pytest.fixture
def start():
    weights = {
        "toklip": Weights(TOKLIP, params_of()["tokenizer"], is_scanned=False),
        "whole": Weights(
            dataclasses.replace(CONFIG, lora_rank=0),
            partition(params_of(), (LORA,))[1],
            is_scanned=False,
        ),
    }
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    return Start(COMPUTE, mesh, 0, weights.__getitem__)


NEW = {"language_model": config_to_dict(LANGUAGE_MODEL), "reads": ("tokens", "ids")}


def test_a_new_language_model_starts_beside_a_finished_tokenizer(start):
    section = {"model": NEW | {"template": "plain"}, "init": {"tokenizer": "toklip"}}
    objective, params = MULTIMODAL.start(stage_of(section), start)
    assert objective.model_config.template == "plain"
    assert set(params) == {"language_model", "tokenizer", "image_embed", "projector_tokens"}
    jax.tree.map(np.testing.assert_array_equal, params["tokenizer"], params_of()["tokenizer"])
    plain = config_to_dict(objective.model_config)
    assert config_from_dict(plain) == objective.model_config


def test_a_whole_model_goes_on_with_new_lora(start):
    section = {"model": {"lora_rank": 2}, "init": {"model": "whole"}}
    stage = stage_of(section, trainable=(LORA,))
    objective, params = MULTIMODAL.start(stage, start)
    assert objective.model_config == dataclasses.replace(CONFIG, lora_alpha=0.0)
    trainable, _ = partition(params, objective.trainable)
    ups = [x for p, x in jax.tree_util.tree_leaves_with_path(trainable) if "lora_up" in str(p)]
    assert len(ups) == 7 * LANGUAGE_MODEL.depth
    assert not any(np.any(x) for x in ups)  # so that the start is the model without


@pytest.mark.parametrize(
    ("section", "loss", "message"),
    [
        ({"model": NEW, "init": {}}, {}, "got none"),
        ({"model": NEW, "init": {"tokenizer": "toklip", "lm": "x"}}, {}, "init"),
        ({"model": {}, "init": {"tokenizer": "toklip"}}, {}, "either the weights"),
        ({"model": {}, "init": {"model": "whole", "tokenizer": "toklip"}}, {}, "init.model alone"),
        ({"model": {}, "init": {"model": "toklip"}}, {}, "expected a multimodal model"),
        ({"model": {}, "init": {"model": "whole"}}, {"trainable": (".*",)}, "leave tokenizer"),
        ({"model": {"template": "qwen9"}, "init": {"model": "whole"}}, {}, "a template"),
    ],
)
def test_what_does_not_fit_is_refused(start, section, loss, message):
    with pytest.raises(ValueError, match=message):
        MULTIMODAL.start(stage_of(section, **loss), start)


def test_factors_scale_updates_by_pattern():
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
    config = OptimizerConfig(0.1, 0, factors=(("b/.*", 0.25),))
    optimizer = make_optimizer(config, 3)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["b"]["kernel"], updates["a"]["kernel"] / 4, rtol=1e-6)
    whole = make_optimizer(OptimizerConfig(0.1, 0, factors=(("a/k.*", 0.5), ("b/kernel", 0.25))), 3)
    params["a"]["kernel_of_b"] = params["b"]["kernel_of_a"] = jnp.ones((2, 2))
    updates, _ = whole.update(params, whole.init(params), params)
    plain = np.abs(updates["b"]["kernel_of_a"])  # "b/kernel" is not all of its path
    np.testing.assert_allclose(np.abs(updates["b"]["kernel"]), plain / 4, rtol=1e-6)
    np.testing.assert_allclose(np.abs(updates["a"]["kernel_of_b"]), plain / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="matches none"):
        make_optimizer(OptimizerConfig(factors=(("c", 1.0),)), 3).init(params)
    with pytest.raises(ValueError, match="regular expressions"):
        OptimizerConfig(factors=(("(", 1.0),))
