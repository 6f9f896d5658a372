"""Losses and similarities multiply float32 at the highest precision, gradients included.

By default accelerators round the factors of products to bfloat16 or TensorFloat-32; that this
doesn't happen is read off the traced programs.
"""

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from toklip_jax.losses import plain
from toklip_jax.losses.contrastive import contrastive_loss
from toklip_jax.losses.quantisation import entropy_loss
from toklip_jax.losses.sign_entropy import sign_entropy
from toklip_jax.losses.soft_assignment import blockwise_entropy, soft_codes
from toklip_jax.models.toklip.model import similarity

X, Y = jnp.ones((4, 8)), jnp.ones((4, 8)) / 2
SCALE, BIAS = jnp.float32(2.0), jnp.float32(-3.0)
HIGHEST = jax.lax.Precision.HIGHEST


def contrast(kind, block):
    return lambda x, y: contrastive_loss(
        kind, x, y, logit_scale=SCALE, logit_bias=BIAS, block=block
    )


PRODUCTS = {
    "softmax": lambda x, y: plain.softmax_contrastive_loss(x, y, SCALE),
    "sigmoid": lambda x, y: plain.sigmoid_contrastive_loss(x, y, SCALE, BIAS),
    "softmax over devices": contrast("softmax", 0),
    "softmax in blocks": contrast("softmax", 2),
    "sigmoid over devices": contrast("sigmoid", 0),
    "sigmoid in blocks": contrast("sigmoid", 2),
    "entropy": lambda x, y: entropy_loss(x[None], y),
    "entropy in blocks": lambda x, y: entropy_loss(x[:, None], y, max_scores=8),
    "entropy of inner products": lambda x, y: blockwise_entropy(x[None], y, metric="inner_product"),
    "entropy of distances": lambda x, y: blockwise_entropy(x[None], y, max_scores=8),
    "entropy of signs": lambda x, y: sign_entropy(x[None]) + sign_entropy(y[None]),
    "soft codes": lambda x, y: jnp.sum(soft_codes(x, y) ** 2),
    "similarity": lambda x, y: jnp.sum(similarity(x, y, SCALE, BIAS)),
}


def products_of(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(parameter):
                yield from products_of(getattr(parameter, "jaxpr", parameter))


def is_program(x):
    return isinstance(x, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)


@pytest.mark.parametrize("name", PRODUCTS)
def test_float32_is_meant_as_such(name):
    program = jax.make_jaxpr(jax.grad(PRODUCTS[name], argnums=(0, 1)))(X, Y)
    found = set(products_of(program.jaxpr))
    assert found == {(HIGHEST, HIGHEST)}
