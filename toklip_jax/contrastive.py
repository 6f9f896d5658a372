"""The contrastive loss over a batch that is spread over devices; no device holds all its logits.

Each device has its rows (images) against all texts, in blocks of texts when asked. The plain
losses, which these equal in value and gradient, are in `losses`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from toklip_jax.sharding import BATCH_AXES

KINDS = ("softmax", "sigmoid")


def contrastive_loss(
    kind: str,
    image_features: Float[Array, "b d"],
    text_features: Float[Array, "b d"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""] | None = None,
    token_ids: Int[Array, "b t"] | None = None,
    block: int = 0,
) -> Float[Array, ""]:
    """CLIP's softmax or SigLIP's sigmoid loss of normalised features, over the global batch, nats.

    Under `jax.set_mesh` the rows are those of the mesh axes `data` and `fsdp`: a device builds
    [b / devices, block] logits at a time, and recomputes them in the backward pass. Texts are
    gathered once (b d numbers); of the softmax over images, devices exchange b numbers.

    Args:
        logit_bias: the sigmoid's.
        token_ids: images match all texts that are equal to theirs, under the sigmoid; without, the
            diagonal alone.
        block: texts at a time, 0 for all; it need not divide b.
    """
    if kind == "softmax":
        operands, local = (image_features, text_features, logit_scale), _softmax
    elif kind == "sigmoid":
        if token_ids is None:
            token_ids = jnp.arange(len(image_features), dtype=jnp.int32)[:, None]
        operands = (image_features, text_features, logit_scale, logit_bias, token_ids)
        local = _sigmoid
    else:
        raise ValueError(f"expected a contrastive loss of {KINDS}, got {kind!r}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return local(*operands, block=block, axes=())
    rows = P(BATCH_AXES)
    specs = tuple(rows if operand.ndim else P() for operand in operands)
    local = functools.partial(local, block=block, axes=BATCH_AXES)
    return jax.shard_map(local, in_specs=specs, out_specs=P())(*operands)


def _softmax(image, text, logit_scale, *, block, axes):
    """(CE over texts + CE over images) / 2; a block gives its part of both normalisers."""
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    scale = jnp.exp(logit_scale)

    def normalisers(texts, is_text):
        logits = jnp.where(is_text, scale * image @ texts.T, -jnp.inf)  # [b local, block]
        # Padding's columns are -inf throughout: 0 there keeps their gradient finite.
        over_images = jax.nn.logsumexp(jnp.where(is_text, logits, 0), axis=0)
        return jax.nn.logsumexp(logits, axis=1), over_images

    over_texts, over_images = _blockwise(normalisers, (_gather(text, axes),), block)
    over_texts = jax.nn.logsumexp(over_texts, axis=0)  # [b local]
    b = len(text) * _size(axes)
    over_images = _logsumexp_over(over_images.reshape(-1)[:b], axes)  # [b]
    matched = scale * jnp.sum(image * text, axis=1)
    return (_sum(over_texts - 2 * matched, axes) + jnp.sum(over_images)) / (2 * b)


def _sigmoid(image, text, logit_scale, logit_bias, token_ids, *, block, axes):
    """-sum_ij log sigmoid(+-(s x_i y_j + bias)) / b."""
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)

    def pairs(texts, ids, is_text):
        logits = jnp.exp(logit_scale) * image @ texts.T + logit_bias  # [b local, block]
        sign = jnp.where(jnp.all(token_ids[:, None] == ids[None], axis=-1), 1.0, -1.0)
        return -jnp.sum(jnp.where(is_text, jax.nn.log_sigmoid(sign * logits), 0), axis=1)

    columns = _gather(text, axes), _gather(token_ids, axes)
    return _sum(_blockwise(pairs, columns, block), axes) / (len(text) * _size(axes))


def _blockwise(of_block: Callable, columns: tuple, block: int):
    """Stacks `of_block(*columns of one block, which of them are there)` over the blocks."""
    b = len(columns[0])
    block = min(block or b, b)
    count = -(-b // block)
    if count == 1:
        return jax.tree.map(lambda x: x[None], of_block(*columns, jnp.ones(b, bool)))

    def split(x):
        return jnp.pad(x, ((0, count * block - b), *((0, 0),) * (x.ndim - 1))).reshape(
            count, block, *x.shape[1:]
        )

    is_there = jnp.arange(count * block).reshape(count, block) < b
    once_more = jax.checkpoint(lambda xs: of_block(*xs))  # else all logits wait for the backward
    return jax.lax.map(once_more, (*map(split, columns), is_there))


def _gather(x, axes):
    return jax.lax.all_gather(x, axes, tiled=True) if axes else x


def _size(axes):
    return jax.lax.axis_size(axes) if axes else 1


def _sum(x, axes):
    return jax.lax.psum(jnp.sum(x), axes) if axes else jnp.sum(x)


def _logsumexp_over(x, axes):
    """logsumexp of one number a device, entry by entry."""
    if not axes:
        return x
    largest = jax.lax.pmax(jax.lax.stop_gradient(x), axes)
    return largest + jnp.log(jax.lax.psum(jnp.exp(x - largest), axes))
