"""Codes that no latent chooses are replaced by latents of rows that count, on any mesh."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.models.conv_vq.config import ConvVQConfig
from toklip_jax.nn.config import Compute
from toklip_jax.nn.quantisers import QuantiserConfig
from toklip_jax.tasks.vq.dead_codes import (
    CANDIDATES,
    CODE_USE,
    DECAY,
    IS_COUNTED,
    replace_dead_codes,
)
from toklip_jax.tasks.vq.objective import VQObjective
from toklip_jax.training.step import gradients

COMPUTE = Compute(is_scanned=False)
Z, C, SHARE = 8, 3, 0.5
COUNTS = {"residual": 2, "several": 2}


def objective_of(method, **fields):
    sizes = {"channels": 32, "multipliers": (1,), "num_res_blocks": 1, "z_channels": 32}
    quantiser = QuantiserConfig(method, Z, C, COUNTS.get(method, 1))
    config = ConvVQConfig(**sizes, stem_patch=8, quantiser=quantiser)
    return VQObjective(config, COMPUTE, dead_code_share=SHARE, **fields)


def drawn(is_counted, use):
    """One codebook of zeros; candidate i has i + 1 in all places."""
    m = len(is_counted)
    candidates = jnp.broadcast_to(jnp.arange(1.0, m + 1)[None, :, None], (1, m, C))
    params = {"codebook": jnp.zeros((Z, C)), CODE_USE: jnp.asarray(use, jnp.float32)}
    statistics = {CANDIDATES: candidates, IS_COUNTED: jnp.asarray(is_counted)}
    return params, statistics | {CODE_USE: jnp.zeros(Z).at[0].set(1)}


def test_only_codes_below_the_share_are_replaced_and_then_count_as_used():
    use = np.full(Z, 1 / Z)
    use[[0, 3]] = 0, 0.4 / Z  # the batch uses the first, but too little of it
    params, statistics = drawn([True] * 20, use)
    new = replace_dead_codes(params, statistics, SHARE, jax.random.key(0))
    is_new = np.asarray(new["codebook"]).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(is_new), [0, 3])
    want = DECAY * use + (1 - DECAY) * np.eye(Z)[0]
    want[[0, 3]] = 1 / Z
    np.testing.assert_allclose(new[CODE_USE], want, rtol=1e-6)


def test_rows_that_do_not_count_replace_no_code():
    is_counted = np.arange(20) % 5 == 2
    params, statistics = drawn(is_counted, np.zeros(Z))
    chosen = set()
    for seed in range(10):
        new = replace_dead_codes(params, statistics, SHARE, jax.random.key(seed))
        chosen |= set(np.asarray(new["codebook"])[:, 0].astype(int) - 1)
    assert chosen == set(np.flatnonzero(is_counted))


def test_a_batch_of_which_nothing_counts_changes_nothing():
    params, statistics = drawn([False] * 20, np.zeros(Z))
    new = replace_dead_codes(params, statistics, SHARE, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, new, params)


@pytest.mark.parametrize("method", ["l2", "plain", "inner_product", "residual", "several"])
def test_a_dead_code_becomes_a_vector_that_was_compared_with_its_codebook(method):
    """Of rows that count, in one chunk or three."""
    objective = objective_of(method)
    params = jax.jit(objective.init)(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (6, 16, 24, 3), minval=-1)
    mask = jnp.array([True, False, True, True, False, True])

    def refreshed(chunks):
        def compute(params, batch):
            _, metrics, _ = gradients(
                objective, params, {}, batch, jax.random.key(2), chunks=chunks
            )
            statistics = metrics["statistics"]
            return objective.refresh(params, statistics, jax.random.key(3)), statistics

        return jax.jit(compute)(params | {CODE_USE: 0 * params[CODE_USE]}, batch)

    batch = {"images": images, "mask": mask}
    (new, statistics), (chunked, _) = refreshed(1), refreshed(3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), chunked, new)
    assert objective.model_params(new).keys() == params.keys() - {CODE_USE}
    latents = jax.jit(objective.model.apply)({"params": params}, images[mask])
    compared = objective.model.apply(
        {"params": params}, latents.latents, latents.ids, method="compared"
    )
    books = new["codebook"].reshape(len(compared), -1, new["codebook"].shape[-1])
    for book, vectors in zip(books, compared, strict=True):
        distances = np.linalg.norm(book[:, None] - vectors[None], axis=-1).min(axis=1)
        assert distances.max() < 1e-4
    share_counted = float(statistics[IS_COUNTED].mean())
    assert share_counted == pytest.approx(float(mask.mean()))


def test_a_tokenizer_without_a_codebook_has_no_dead_codes():
    config = ConvVQConfig(quantiser=QuantiserConfig("sign", 2**C, C))
    objective = VQObjective(config, COMPUTE, dead_code_share=SHARE)
    with pytest.raises(ValueError, match="expected one trained parameter 'codebook'"):
        jax.eval_shape(objective.init, jax.random.key(0))


def test_what_is_replaced_has_to_be_trained():
    with pytest.raises(ValueError, match=r"expected loss\.trainable to match the codebook and"):
        objective_of("l2", trainable=("decoder/.*", "codebook"))
    objective_of("l2", trainable=("codebook", CODE_USE))


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from tests.training.test_dead_codes import CODE_USE, objective_of
from toklip_jax.parallel.sharding import BATCH_AXES, make_mesh, shardings
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.step import create_state, make_step

mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 1})
objective = objective_of("plain")
params = jax.jit(objective.init)(jax.random.key(0))
params[CODE_USE] = 0 * params[CODE_USE]
images = jax.random.uniform(jax.random.key(1), (8, 16, 24, 3), minval=-1)
batch = {"images": images, "mask": jnp.arange(8) != 5}
optimizer = OptimizerConfig(learning_rate=0.0)
step = make_step(objective, optimizer, 10)
state = create_state(params, optimizer, 10)
want = jax.device_get(jax.jit(step)(state, {}, batch)[0].params)
with jax.set_mesh(mesh):
    placed = jax.device_put(state, shardings(state, mesh, objective.sharding))
    put = jax.device_put(batch, jax.sharding.NamedSharding(mesh, P(BATCH_AXES)))
    got = jax.jit(step)(placed, {}, put)[0].params
got = jax.device_get(got)
assert np.abs(want["codebook"] - jax.device_get(params["codebook"])).min(axis=1).max() > 0
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
"""


@pytest.mark.slow
def test_four_devices_replace_the_codes_that_one_replaces():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
