"""The depthwise convolution against XLA's grouped one, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.ops.depthwise import depthwise_conv

pytestmark = pytest.mark.usefixtures("highest_precision")


def grouped(x, kernel, stride):
    pads = tuple((side // 2, side // 2) for side in kernel.shape[:2])
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=layout, feature_group_count=x.shape[-1]
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 2)])
@pytest.mark.parametrize("sides", [(3, 3), (5, 1)])
def test_it_equals_the_grouped_convolution(stride, size, sides):
    x = jax.random.normal(jax.random.key(0), (2, *size, 4))
    kernel = jax.random.normal(jax.random.key(1), (*sides, 1, 4))

    def value_and_grads(function):
        def loss(x, kernel):
            out = function(x, kernel, stride)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)

    got, want = value_and_grads(depthwise_conv), value_and_grads(grouped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), got, want)


def test_sums_of_bfloat16_are_float32():
    x = jnp.full((1, 3, 3, 1), 1 + 2.0**-7, jnp.bfloat16)
    out = depthwise_conv(x, jnp.ones((3, 3, 1, 1)))
    assert out.dtype == jnp.bfloat16
    assert out[0, 1, 1, 0] == jnp.bfloat16(9 * (1 + 2.0**-7))
