"""A causal token encoder gives the same tokens one by one, some at a time and all at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.models.siglip.config import VisionConfig
from toklip_jax.models.toklip.token_encoder import TokenEncoder
from toklip_jax.nn.config import Compute
from toklip_jax.nn.layout import to_scanned

pytestmark = pytest.mark.usefixtures("highest_precision")

CONFIG = VisionConfig(32, 2, 4, 48, is_causal=True, image_size=(48, 32), patch_size=16)
N = 6
ATOL = 1e-5


@pytest.fixture(scope="module")
def codes():
    return jax.random.normal(jax.random.key(1), (2, N, 8))


@pytest.fixture(scope="module")
def params(codes):
    encoder = TokenEncoder(CONFIG, Compute(is_scanned=False))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), codes)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.3 * jnp.float32(rng.normal(size=leaf.shape)), shapes)


@pytest.fixture(scope="module")
def tokens(params, codes):
    encoder = TokenEncoder(CONFIG, Compute(is_scanned=False))
    return jax.jit(lambda x: encoder.apply(params, x, method="tokens"))(codes)


@pytest.mark.parametrize("is_scanned", [False, True])
def test_tokens_step_by_step_are_the_parallel_ones_from_one_program(
    is_scanned, params, codes, tokens
):
    variables = to_scanned(params, jnp.stack) if is_scanned else params
    encoder = TokenEncoder(CONFIG, Compute(is_scanned=is_scanned))
    traces = []

    @jax.jit
    def one_by_one(codes, positions):
        traces.append(positions)

        def step(cache, inputs):
            code, position = inputs
            token, cache = encoder.apply(variables, code, position, cache, method="step")
            return cache, token

        cache = encoder.init_cache(len(codes))
        return jax.lax.scan(step, cache, (codes.swapaxes(0, 1), positions))[1].swapaxes(0, 1)

    np.testing.assert_allclose(one_by_one(codes, jnp.arange(N)), tokens, atol=ATOL)
    per_row = jnp.tile(jnp.arange(N)[:, None], (1, 2))
    np.testing.assert_allclose(one_by_one(codes, per_row), tokens, atol=ATOL)
    one_by_one(codes, jnp.arange(N))
    assert len(traces) == 2  # one for positions of each shape


def test_a_prefix_at_once_and_then_steps_in_a_while_loop(params, codes, tokens):
    encoder = TokenEncoder(CONFIG, Compute(is_scanned=False))

    @jax.jit
    def prefix_then_steps(codes, count):
        positions = jnp.broadcast_to(jnp.arange(3), (2, 3))
        cache = encoder.init_cache(2)
        start, cache = encoder.apply(params, codes[:, :3], positions, cache, method="extend")
        out = jnp.zeros((2, N, 32)).at[:, :3].set(start)

        def step(state):
            i, cache, out = state
            token, cache = encoder.apply(params, codes[:, i], i, cache, method="step")
            return i + 1, cache, out.at[:, i].set(token)

        return jax.lax.while_loop(lambda s: s[0] < count, step, (jnp.int32(3), cache, out))[2]

    np.testing.assert_allclose(prefix_then_steps(codes, N), tokens, atol=ATOL)
    part = prefix_then_steps(codes, 5)
    np.testing.assert_allclose(part[:, :5], tokens[:, :5], atol=ATOL)
    assert not np.asarray(part[:, 5]).any()


def test_a_cache_in_bfloat16_stays_near(params, codes, tokens):
    encoder = TokenEncoder(CONFIG, Compute(is_scanned=False))
    cache = encoder.init_cache(2, "bfloat16")
    assert all(keys.dtype == jnp.bfloat16 for keys in cache.keys)
    positions = jnp.tile(jnp.arange(N), (2, 1))
    got, _ = jax.jit(lambda *x: encoder.apply(params, *x, method="extend"))(codes, positions, cache)
    np.testing.assert_allclose(got, tokens, atol=0.03)


def test_an_encoder_that_sees_all_cannot_go_step_by_step(params, codes):
    causal = TokenEncoder(CONFIG, Compute(is_scanned=False))
    encoder = TokenEncoder(dataclasses.replace(CONFIG, is_causal=False), causal.compute)
    with pytest.raises(ValueError, match="expected a causal token encoder"):
        encoder.init_cache(2)
    cache = causal.init_cache(2)
    with pytest.raises(ValueError, match="expected a causal token encoder"):
        encoder.apply(params, codes[:, 0], 0, cache, method="step")


def test_a_position_past_the_table_is_refused(params, codes):
    encoder = TokenEncoder(CONFIG, Compute(is_scanned=False))
    with pytest.raises(ValueError, match="expected positions below 6, got 6"):
        encoder.apply(params, codes[:, 0], 6, encoder.init_cache(2), method="step")
