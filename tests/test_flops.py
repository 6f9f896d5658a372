"""FLOPs against hand counts."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct as Shape

from toklip_jax.costs.flops import count_flops
from toklip_jax.nn.config import Compute
from toklip_jax.nn.transformer import Stack, TransformerConfig

X, W = Shape((4, 8), jnp.float32), Shape((8, 16), jnp.float32)
PRODUCT = 2 * 4 * 8 * 16


def test_a_product_counts_two_a_multiply_add():
    assert count_flops(lambda x, w: x @ w, X, W) == PRODUCT


def test_a_gradient_counts_three_products_where_inputs_train_too():
    def loss(x, w):
        return jnp.sum((x @ w) ** 2)

    assert count_flops(jax.grad(loss, 1), X, W) == 2 * PRODUCT
    assert count_flops(jax.grad(loss, (0, 1)), X, W) == 3 * PRODUCT


def test_a_scan_counts_times_its_length():
    square = Shape((8, 8), jnp.float32)

    def repeated(x, w):
        return jax.lax.fori_loop(0, 5, lambda _, x: x @ w, x)

    assert count_flops(repeated, X, square) == 5 * 2 * 4 * 8 * 8
    assert count_flops(jax.jit(repeated), X, square) == 5 * 2 * 4 * 8 * 8


def test_a_conditional_counts_its_dearest_branch():
    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: jnp.zeros((4, 16)))

    assert count_flops(either, X, W) == PRODUCT


@pytest.mark.parametrize(("stride", "side"), [(1, 6), (2, 3)])
def test_convolutions_and_their_gradients_count_alike(stride, side):
    images, kernel = Shape((2, 6, 6, 3), jnp.float32), Shape((3, 3, 3, 5), jnp.float32)

    def conv(images, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (stride, stride), "SAME", dimension_numbers=numbers
        )

    forward = 2 * (2 * side * side * 5) * (3 * 3 * 3)
    assert count_flops(conv, images, kernel) == forward

    def loss(images, kernel):
        return jnp.sum(conv(images, kernel))

    to_kernel = count_flops(jax.grad(loss, 1), images, kernel) - forward
    assert to_kernel == forward
    to_images = count_flops(jax.grad(loss, 0), images, kernel) - forward
    # Where it strides, the gradient's positions are the input's 36, of which one in four is met.
    assert to_images == forward


def test_a_transformer_counts_as_by_hand_scanned_or_not():
    config, x = TransformerConfig(16, 3, 2, mlp_dim=40), Shape((2, 5, 16), jnp.float32)
    tokens = 2 * 5
    weights = 16 * 3 * 16 + 16 * 16 + 2 * 16 * 40
    by_hand = 3 * (2 * tokens * weights + 2 * 2 * tokens * 5 * 16)
    for is_scanned in (True, False):
        model = Stack(config, Compute(is_scanned=is_scanned))
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        assert count_flops(model.apply, params, x) == by_hand


def test_rematerialisation_is_counted_as_the_work_it_is():
    config, x = TransformerConfig(16, 3, 2, mlp_dim=40), Shape((2, 5, 16), jnp.float32)

    def of_gradient(compute):
        model = Stack(config, compute)
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        forward = count_flops(model.apply, params, x)
        loss = jax.grad(lambda params, x: jnp.sum(model.apply(params, x)[0]))
        return count_flops(loss, params, x) / forward

    plain = of_gradient(Compute())
    assert plain == 3
    remade = of_gradient(dataclasses.replace(Compute(), remat="full"))
    assert plain < remade <= plain + 1


def test_exact_float32_products_weigh_their_passes():
    def exact(x, w):
        return jnp.matmul(x, w, precision="highest")

    assert count_flops(exact, X, W) == PRODUCT
    assert count_flops(exact, X, W, float32_passes=6.0) == 6 * PRODUCT
    assert count_flops(lambda x, w: x @ w, X, W, float32_passes=6.0) == PRODUCT
    half = Shape((4, 8), jnp.bfloat16), Shape((8, 16), jnp.bfloat16)
    assert count_flops(exact, *half, float32_passes=6.0) == PRODUCT


def test_inside_shard_map_all_devices_count():
    mesh = jax.sharding.AbstractMesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")

    def product(x, w):
        return x @ w

    split = jax.shard_map(
        product, mesh=mesh, in_specs=(spec, jax.sharding.PartitionSpec()), out_specs=spec
    )
    assert count_flops(split, X, W) == PRODUCT
