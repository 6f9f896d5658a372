"""Classifies frozen features with the simplest learners: a linear probe, nearest neighbours."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from toklip_jax.evaluation.retrieval import nearest_keys
from toklip_jax.metrics import AnyArray, Estimate, TopK
from toklip_jax.ops.normalize import l2_normalize

L2 = 1e-4  # weight of |W|^2 / 2 beside the mean cross-entropy, on standardised features
MAX_STEPS = 2000  # far beyond what it takes: rounding must not decide where it stops
GRADIENT_TOLERANCE = 1e-5
KNN_NEIGHBOURS = 20  # DINO's (Caron et al. 2021, appendix F)
KNN_TEMPERATURE = 0.07  # the same


def linear_probe(
    train_x: Float[AnyArray, "n d"],
    train_y: Int[AnyArray, " n"],
    test_x: Float[AnyArray, "m d"],
    test_y: Int[AnyArray, " m"],
    *,
    l2: float = L2,
    max_steps: int = MAX_STEPS,
) -> Estimate:
    """Returns the test accuracy of multinomial logistic regression and its standard error.

    Features are standardised by the training set's mean and deviation. The full batch goes through
    L-BFGS from zero weights, so the result has no seed.

    Args:
        train_x: frozen features.
        train_y: class ids from 0.
        test_x: features to classify.
        test_y: their classes; one that never occurs in `train_y` counts as wrong.
        l2: weight decay of the weights (not of the bias).
        max_steps: L-BFGS steps, fewer where the gradient vanishes first.
    """
    logits = linear_probe_logits(train_x, train_y, test_x, l2=l2, max_steps=max_steps)
    return TopK.from_logits(logits, test_y, ks=(1,)).compute()[1]


def linear_probe_logits(
    train_x: Float[AnyArray, "n d"],
    train_y: Int[AnyArray, " n"],
    test_x: Float[AnyArray, "m d"],
    *,
    l2: float = L2,
    max_steps: int = MAX_STEPS,
) -> Float[Array, "m c"]:
    """Returns the probe's logits of `test_x`; arguments as `linear_probe`."""
    train_x, test_x = _standardize(np.asarray(train_x), np.asarray(test_x))
    weights = fit_logistic_regression(
        train_x, jnp.asarray(train_y), 1 + int(np.max(train_y)), l2=l2, max_steps=max_steps
    )
    return _logits(weights, test_x)


def knn(
    train_x: Float[AnyArray, "n d"],
    train_y: Int[AnyArray, " n"],
    test_x: Float[AnyArray, "m d"],
    test_y: Int[AnyArray, " m"],
    *,
    k: int = KNN_NEIGHBOURS,
) -> Estimate:
    """Returns the test accuracy of a vote of the k nearest in cosine, and its standard error.

    A neighbour's vote weighs exp(cosine / 0.07), as in DINO; equal votes go to the lowest class.
    """
    train_x, test_x = l2_normalize(jnp.asarray(train_x)), l2_normalize(jnp.asarray(test_x))
    indices, cosines = nearest_keys(test_x, train_x, min(k, len(train_x)))
    votes = np.zeros((len(indices), 1 + int(np.max(train_y))), np.float32)
    rows = np.arange(len(indices))[:, None]
    np.add.at(votes, (rows, np.asarray(train_y)[indices]), np.exp(cosines / KNN_TEMPERATURE))
    return TopK.from_logits(votes, test_y, ks=(1,)).compute()[1]


@functools.partial(jax.jit, static_argnames=("num_classes", "l2", "max_steps"))
def fit_logistic_regression(
    x: Float[Array, "n d"], y: Int[Array, " n"], num_classes: int, *, l2: float, max_steps: int
) -> dict[str, Array]:
    """Minimises mean cross-entropy + l2 |W|^2 / 2 by L-BFGS with a zoom line search.

    Returns:
        `weight` [d, classes] and `bias` [classes], float32.
    """
    solver = optax.lbfgs()
    start = {
        "weight": jnp.zeros((x.shape[1], num_classes)),
        "bias": jnp.zeros(num_classes),
    }

    def loss(weights):
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(_logits(weights, x), y)
        return jnp.mean(cross_entropy) + l2 / 2 * jnp.sum(weights["weight"] ** 2)

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        weights, state, _, taken = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        norm = optax.tree.norm(grad)
        return optax.apply_updates(weights, updates), state, norm, taken + 1

    def is_unfinished(carry):
        return (carry[2] > GRADIENT_TOLERANCE) & (carry[3] < max_steps)

    return jax.lax.while_loop(is_unfinished, step, (start, solver.init(start), jnp.inf, 0))[0]


def _logits(weights, x):
    return jnp.matmul(x, weights["weight"], precision="highest") + weights["bias"]


def _standardize(train_x, test_x):
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)  # a constant feature stays at zero
    scaled = [(x - mean) / deviation for x in (train_x, test_x)]
    return tuple(jnp.asarray(x, jnp.float32) for x in scaled)
