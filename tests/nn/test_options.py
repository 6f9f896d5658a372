"""Every option of the block, against a stack written out plainly, in value and gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from toklip_jax.nn.config import Compute, TransformerConfig
from toklip_jax.nn.norms import rms_norm
from toklip_jax.nn.transformer import Stack
from toklip_jax.ops.dropout import dropout
from toklip_jax.parallel.sharding import AXES, shardings

pytestmark = pytest.mark.usefixtures("highest_precision")

PLAIN = Compute(is_scanned=False)
N = 6
SIGLIP = TransformerConfig(8, 1, 2, 12)
LLAMAGEN = dataclasses.replace(
    SIGLIP,
    activation="silu",
    norm_eps=1e-5,
    is_causal=True,
    norm="rms",
    mlp="gated",
    has_qkv_bias=False,
    has_bias=False,
    positions="rotary_2d",
    rotary_width=2,
    rotary_prefix=1,
    init_std=0.2,
)
QWEN = dataclasses.replace(
    LLAMAGEN,
    num_kv_heads=1,
    head_dim=6,
    projection="separate",
    has_qkv_bias=True,
    has_qk_norm=True,
    positions="rotary",
    rotary_width=0,
    rotary_prefix=0,
    rotary_base=1e6,
)
MIXED = dataclasses.replace(
    SIGLIP,
    is_causal=True,
    has_bias=False,
    has_qk_norm=True,
    positions="rotary_interleaved",
    rotary_base=100.0,
)
VITAMIN = dataclasses.replace(SIGLIP, has_mlp_norm=True)
CASES = {
    "siglip": SIGLIP,
    "mixed": MIXED,
    "llamagen": LLAMAGEN,
    "qwen": QWEN,
    "vitamin": VITAMIN,
}


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (2, N, 8))


def init(config, x):
    """Random parameters, biases and scales included, so that all of them count."""
    shapes = jax.eval_shape(Stack(config, PLAIN).init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.5 * jnp.float32(rng.normal(size=leaf.shape)), shapes)


@pytest.mark.parametrize("name", CASES)
def test_a_stack_equals_the_plain_one_in_value_and_gradient(name, x):
    config = CASES[name]
    params = init(config, x)

    def value_and_grads(function):
        def loss(params, x):
            out = function(params, x)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)

    (_, out), grads = value_and_grads(
        lambda params, x: Stack(config, PLAIN).apply({"params": params}, x)[0]
    )
    (_, want), want_grads = value_and_grads(lambda params, x: plain_stack(params, x, config))
    np.testing.assert_allclose(out, want, atol=1e-5, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, atol=2e-5 * max(1, float(jnp.abs(b).max())), rtol=1e-5
        ),
        grads,
        want_grads,
    )


def plain_stack(params, x, config):
    for i in range(config.depth):
        block = params[f"blocks_{i}"]
        x = x + plain_attention(block["attn"], plain_norm(block["norm1"], x, config), config)
        y = plain_norm(block["norm2"], x, config)
        y = plain_norm(block["mlp_norm"], y, config) if config.has_mlp_norm else y
        x = x + plain_mlp(block["mlp"], y, config)
    return x


def plain_norm(params, x, config):
    if config.norm == "rms":
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + config.norm_eps) * params["scale"]
    x = x - x.mean(-1, keepdims=True)
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + config.norm_eps)
    return x * params["scale"] + params["bias"]


def plain_mlp(params, x, config):
    if config.mlp == "gated":
        gate = linear(params["gate"], x)
        return linear(params["fc2"], gate / (1 + jnp.exp(-gate)) * linear(params["fc1"], x))
    hidden = linear(params["fc1"], x)
    cubic = jnp.sqrt(2 / jnp.pi) * (hidden + 0.044715 * hidden**3)
    return linear(params["fc2"], 0.5 * hidden * (1 + jnp.tanh(cubic)))


def linear(params, x):
    return x @ params["kernel"] + params.get("bias", 0)


def plain_attention(params, x, config):
    """Head by head, keys and values of a group repeated, positions by rotation matrices."""
    outs = []
    rotations = rotation_matrices(config)
    group = config.num_heads // config.num_kv_heads
    mask = np.tril(np.ones((N, N), bool)) if config.is_causal else np.ones((N, N), bool)
    for head in range(config.num_heads):
        query = head_of(params, x, "q", head, config)
        key = head_of(params, x, "k", head // group, config)
        value = head_of(params, x, "v", head // group, config)
        if config.has_qk_norm:
            query = plain_norm(params["q_norm"], query, config)
            key = plain_norm(params["k_norm"], key, config)
        query, key = (jnp.einsum("nij,bnj->bni", rotations, part) for part in (query, key))
        logits = query @ key.mT / np.sqrt(config.head_dim)
        weights = jnp.exp(logits) * mask
        outs.append(weights / weights.sum(-1, keepdims=True) @ value)
    kernel = params["proj"]["kernel"]
    out = sum(out @ kernel[head] for head, out in enumerate(outs))
    return out + params["proj"].get("bias", 0)


def head_of(params, x, name, head, config):
    """One head of the queries, keys or values [b, n, e]."""
    if config.projection == "packed":
        index = "qkv".index(name)
        kernel = params["qkv"]["kernel"][:, index, head]
        bias = params["qkv"]["bias"][index, head] if "bias" in params["qkv"] else 0
    else:
        kernel = params[name]["kernel"][:, head]
        bias = params[name]["bias"][head] if "bias" in params[name] else 0
    return x @ kernel + bias


def rotation_matrices(config):
    """The matrix that each position applies to a query or key, [n, e, e]."""
    size = config.head_dim
    matrices = np.zeros((N, size, size))
    for position in range(N):
        for pair in range(size // 2):
            cos, sin = cos_and_sin(position, pair, config)
            is_split = config.positions == "rotary"
            a, b = (pair, pair + size // 2) if is_split else (2 * pair, 2 * pair + 1)
            matrices[position][np.ix_([a, b], [a, b])] = [[cos, -sin], [sin, cos]]
    return jnp.asarray(matrices, jnp.float32)


def cos_and_sin(position, pair, config):
    size, base = config.head_dim, config.rotary_base
    if config.positions == "none":
        return 1, 0
    if config.positions != "rotary_2d":
        angle = position * base ** (-2 * pair / size)
    elif position < config.rotary_prefix:
        return 0, 0
    else:
        row, column = divmod(position - config.rotary_prefix, config.rotary_width)
        is_row = pair < size // 4
        pair = pair if is_row else pair - size // 4
        angle = (row if is_row else column) * base ** (-2 * pair / (size // 2))
    return np.cos(angle), np.sin(angle)


def test_the_options_kernels_are_sharded_as_those_of_today():
    config = dataclasses.replace(QWEN, width=16, num_heads=4, num_kv_heads=2)
    shapes = jax.eval_shape(
        Stack(config, Compute()).init, jax.random.key(0), jnp.zeros((1, 2, 16))
    )["params"]
    mesh = AbstractMesh((1, 2, 2), AXES, (AxisType.Auto,) * 3)
    block = jax.tree.map(lambda sharding: sharding.spec, shardings(shapes, mesh)["blocks"])
    for name in "qkv":  # [layers, d, heads, e]
        assert block["attn"][name]["kernel"] == P(None, "fsdp", "tensor", None)
    assert block["mlp"]["gate"]["kernel"] == block["mlp"]["fc1"]["kernel"]
    assert block["mlp"]["gate"]["kernel"] == P(None, "fsdp", "tensor")


def test_a_packed_projection_equals_separate_ones_of_the_same_weights(x):
    separate = dataclasses.replace(SIGLIP, projection="separate")
    params = init(separate, x)
    packed = {}
    for name, block in params.items():
        parts = [block["attn"][part] for part in "qkv"]
        qkv = {
            "kernel": jnp.stack([part["kernel"] for part in parts], 1),
            "bias": jnp.stack([part["bias"] for part in parts]),
        }
        packed[name] = block | {"attn": {"qkv": qkv, "proj": block["attn"]["proj"]}}
    want = run(separate, params, x)
    np.testing.assert_allclose(run(SIGLIP, packed, x), want, atol=1e-5)


def run(config, params, x, key=None):
    def apply(params, x, key):
        return Stack(config, PLAIN).apply({"params": params}, x, dropout_key=key)[0]

    return jax.jit(apply)(params, x, key)


def test_kernels_are_drawn_with_the_configured_deviation():
    config = dataclasses.replace(QWEN, width=64, init_std=0.02)
    stack = Stack(config, PLAIN)
    params = jax.jit(stack.init)(jax.random.key(0), jnp.zeros((1, 2, 64)))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "kernel":
            assert 0.017 < float(leaf.std()) < 0.023, path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, "expected norm among"),
        ({"mlp": "gate"}, "did you mean 'gated'"),
        ({"positions": "rotary_3d"}, "expected positions among"),
        ({"num_kv_heads": 3, "projection": "separate"}, "num_kv_heads to divide num_heads"),
        ({"num_kv_heads": 1}, "use projection='separate'"),
        ({"positions": "rotary_2d"}, "expected rotary_width"),
        ({"positions": "rotary", "head_dim": 5}, "divisible by 2"),
        ({"num_heads": 3, "head_dim": 0, "num_kv_heads": 0}, "num_heads to divide the width"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"depth": 0}, "depth of at least 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SIGLIP, **changes)


def test_bfloat16_rms_norm_casts_before_it_scales():
    norm = rms_norm(1e-6, jnp.dtype("bfloat16"), None)
    x = jax.random.normal(jax.random.key(0), (4, 32), jnp.bfloat16)
    scale = jnp.linspace(0.5, 1.5, 32)
    got = norm.apply({"params": {"scale": scale}}, x)
    wide = x.astype(jnp.float32)
    wide = wide / jnp.sqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
    want = wide.astype(jnp.bfloat16) * scale.astype(jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), want.astype(jnp.float32), rtol=1e-2)


def test_dropout_follows_its_key_and_without_one_drops_nothing(x):
    config = dataclasses.replace(SIGLIP, dropout=0.5)
    params = init(config, x)
    np.testing.assert_array_equal(run(config, params, x), run(SIGLIP, params, x))
    first, again, other = (run(config, params, x, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(again, first)
    assert np.abs(other - first).max() > 1e-3


def test_dropout_keeps_the_mean():
    x = dropout(jnp.ones((200, 200)), 0.25, jax.random.key(0))
    assert set(np.unique(x)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float(x.mean()) - 1) < 0.01
