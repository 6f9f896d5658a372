"""One chunk equals four for every task, in value and gradient, with masks and ragged weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig
from toklip_jax.models.llamagen import LlamaGenConfig
from toklip_jax.models.siglip.config import TeacherConfig, TextConfig, VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.nn.config import Compute
from toklip_jax.nn.quantisers import VectorQuantiser
from toklip_jax.tasks.generator.objective import GeneratorObjective
from toklip_jax.tasks.registry import TASKS
from toklip_jax.tasks.teacher.objective import TeacherObjective
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.tasks.vq.perceptual import PerceptualVQObjective
from toklip_jax.training.objective import Encoded, Objective
from toklip_jax.training.state import partition
from toklip_jax.training.step import gradients

pytestmark = pytest.mark.usefixtures("highest_precision")

BOUND = 1e-5  # relative to the largest entry of each array
# Of a VQ tokenizer's gradients: group norms and unit vectors amplify float32's rounding, which a
# convolution gives other last digits in smaller batches; the entropy loss divides distances by 0.01
# and amplifies it a hundredfold. Taken per chunk, the entropy loss would be off by 4e-2.
VQ_BOUND = 1e-3
COMPUTE = Compute(is_scanned=False)
VQ = LlamaGenConfig(
    32, channels=32, multipliers=(1,), num_res_blocks=1, z_channels=32, stem_patch=8
)
VISION = VisionConfig(32, 1, 4, 32, image_size=16, patch_size=8)
TEXT = TextConfig(32, 1, 4, 32, vocab_size=16, context_length=4)
CASES = {
    "vq": VQObjective(VQ, COMPUTE, l1_weight=0.5, entropy_weight=0.1),
    "perceptual_vq": PerceptualVQObjective(VQ, COMPUTE, teacher_config=VISION),
    "teacher": TeacherObjective(TeacherConfig(VISION, TEXT), COMPUTE, contrastive_block=3),
    "toklip": TokLIPObjective(
        TokLIPConfig(VQ, dataclasses.replace(VISION, is_causal=True), TEXT),
        VISION,
        COMPUTE,
        token_weight=10.0,
    ),
    # Without dropout of either kind, whose draws differ from chunk to chunk.
    "generator": GeneratorObjective(
        GeneratorConfig(
            GPTConfig(16, 1, 2, grid=(2, 2), codebook_sizes=(32,), num_classes=4, dropout=0.0),
            VQ,
        ),
        COMPUTE,
        condition_dropout=0.0,
    ),
}
# GRPO's images are drawn in each chunk, with keys of its own; the batches of "multimodal" are lines
# of conversations, and tests/training/test_multimodal_task.py has its chunks.
WITHOUT_CASE = {"grpo", "multimodal"}
# Of 8 rows in 4 chunks of every fourth row: a chunk without any row that counts, one with half.
MASK = np.array([1, 0, 1, 1, 1, 0, 0, 1], bool)


def batch_of(has_mask=False):
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.integers(0, 256, (8, 16, 16, 3), np.uint8),
        "token_ids": rng.integers(0, 3, (8, 4), np.int32),
        "labels": rng.integers(0, 4, 8, np.int32),
    }
    if has_mask:
        batch["mask"] = MASK
    return jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    objective = CASES[request.param]
    params = jax.jit(objective.init)(jax.random.key(1))
    return objective, partition(params, objective.trainable)


def compute(case, batch, chunks):
    objective, (trainable, frozen) = case
    return program(objective, chunks)(trainable, frozen, batch)


@functools.cache
def program(objective, chunks):
    return jax.jit(lambda *args: gradients(objective, *args, jax.random.key(0), chunks=chunks))


def expect_close(got, want, bound=BOUND):
    """Values and metrics are close by `BOUND`, gradients by `bound`."""
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want[2:])) if want[2:] else 0
    for part, (a_part, b_part) in enumerate(zip(got, want, strict=True)):
        rtol = bound if part == 2 else BOUND
        for a, b in zip(jax.tree.leaves(a_part), jax.tree.leaves(b_part), strict=True):
            scale = max(float(jnp.abs(b).max()), 1e-2 * largest, 1e-3)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def bound_of(case):
    return VQ_BOUND if isinstance(case[0], VQObjective) else BOUND


def test_every_task_has_a_case():
    assert set(CASES) == set(TASKS) - WITHOUT_CASE


def test_four_chunks_give_what_one_gives(case):
    want, got = (compute(case, batch_of(has_mask=True), chunks) for chunks in (1, 4))
    assert float(want[0]) != 0
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(want[2])) > 1e-4
    expect_close(got, want, bound_of(case))


def test_four_chunks_without_a_mask_give_what_one_with_all_rows_gives(case):
    want = compute(case, batch_of() | {"mask": jnp.ones(8, bool)}, 1)
    expect_close(compute(case, batch_of(), 4), want, bound_of(case))


def test_rows_that_a_mask_leaves_out_count_for_nothing(case):
    masked = compute(case, batch_of(has_mask=True), 1)
    without = compute(case, jax.tree.map(lambda x: x[np.flatnonzero(MASK)], batch_of()), 1)
    expect_close(masked, without, bound_of(case))
    other = batch_of(has_mask=True)
    images = np.array(other["images"])
    images[~MASK] = 255 - images[~MASK]
    changed = compute(case, other | {"images": jnp.asarray(images)}, 1)
    expect_close(changed, masked, bound_of(case))


def test_a_batch_of_which_nothing_counts_gives_no_gradient(case):
    batch = batch_of() | {"mask": jnp.zeros(8, bool)}
    loss, _, grads = compute(case, batch, 1)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))


@dataclasses.dataclass(frozen=True)
class Tokens(Objective):
    """A loss weighted by tokens: rows have different numbers of them."""

    model_config: None = None
    compute: Compute = COMPUTE
    trainable: tuple[str, ...] = (".*",)

    def encode(self, params, batch, rng):
        losses = (batch["x"] * params["a"] - 1) ** 2  # [b, n]
        counts = batch["is_token"].astype(jnp.float32)
        total = jnp.sum(losses * counts)
        return Encoded({}, total, jnp.sum(counts), {"error": total})


def test_token_weights_are_exact_where_chunks_hold_different_numbers_of_tokens():
    rng = np.random.default_rng(0)
    lengths = np.array([9, 1, 2, 1, 7, 3, 1, 1])
    batch = {
        "x": jnp.asarray(rng.normal(size=(8, 9)), jnp.float32),
        "is_token": jnp.asarray(np.arange(9) < lengths[:, None]),
    }
    params = {"a": jnp.float32(0.3)}
    one, four = (
        gradients(Tokens(), params, {}, batch, jax.random.key(0), chunks=chunks)
        for chunks in (1, 4)
    )
    expect_close(four, one)
    want = jnp.mean((batch["x"] * 0.3 - 1)[batch["is_token"]] ** 2)
    np.testing.assert_allclose(one[0], want, rtol=1e-6)
    np.testing.assert_allclose(one[1]["error"], want, rtol=1e-6)


def test_entropy_compares_all_rows_and_is_the_same_in_blocks():
    from toklip_jax.losses.quantisation import entropy_loss

    keys = jax.random.split(jax.random.key(0), 2)
    latents, codes = (
        jax.random.normal(k, s) / 3 for k, s in zip(keys, ((7, 4, 3), (16, 3)), strict=True)
    )
    mask = jnp.arange(7) != 2
    for chosen in (None, mask):
        whole = jax.value_and_grad(entropy_loss, (0, 1))(latents, codes, chosen)
        blocks = jax.value_and_grad(entropy_loss, (0, 1))(latents, codes, chosen, 2 * 4 * 16)
        for a, b in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
            # Distances are divided by 0.01: either is up to 2e-5 from the same in float64.
            np.testing.assert_allclose(a, b, rtol=5e-5, atol=5e-5)
    halves = [float(entropy_loss(part, codes)) for part in (latents[:3], latents[3:])]
    assert abs(np.mean(halves) - float(entropy_loss(latents, codes))) > 1e-3


def test_a_quantisers_loss_that_the_task_does_not_weigh_is_refused(monkeypatch):
    """It would be left out of the loss without a word."""
    objective = CASES["vq"]
    monkeypatch.setattr(VectorQuantiser, "row_losses", lambda self, q: {"margin": jnp.zeros(1)})
    params = jax.eval_shape(objective.init, jax.random.key(0))
    batch = {"images": jnp.zeros((1, 16, 16, 3))}
    with pytest.raises(ValueError, match=r"losses among .*'mse'.*, got \['margin'\]"):
        jax.eval_shape(objective.encode, params, batch, jax.random.key(0))
