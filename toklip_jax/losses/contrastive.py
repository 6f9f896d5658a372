"""The contrastive loss over a batch that is spread over devices; no device holds all its logits.

Each device has its rows (images) against all texts, in blocks of texts when asked. The plain
losses, which these equal in value and gradient, are in `losses`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.parallel.sharding import BATCH_AXES

KINDS = ("softmax", "sigmoid")
LEFT_OUT = -1e30  # a logit that counts for nothing


def contrastive_loss(
    kind: str,
    image_features: Float[Array, "b d"],
    text_features: Float[Array, "b d"],
    *,
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""] | None = None,
    token_ids: Int[Array, "b t"] | None = None,
    mask: Bool[Array, " b"] | None = None,
    block: int = 0,
) -> Float[Array, ""]:
    """CLIP's softmax or SigLIP's sigmoid loss of normalised features, over the global batch, nats.

    Under `jax.set_mesh` the rows are those of the mesh axes `data` and `fsdp`: a device builds
    [b / devices, block] logits at a time, and recomputes them in the backward pass. Texts are
    gathered once (b d numbers); of the softmax over images, devices exchange b numbers.

    Args:
        kind: one of `KINDS`.
        logit_scale: its exponential multiplies the cosines.
        logit_bias: the sigmoid's.
        token_ids: images match all texts that are equal to theirs, under the sigmoid; without, the
            diagonal alone.
        mask: pairs that count; the others are neither compared nor averaged over.
        block: texts at a time, 0 for all; it need not divide b.
    """
    if kind not in KINDS:
        raise UserError(f"expected a contrastive loss of {KINDS}, got {kind!r}")
    operands = {"image": image_features, "text": text_features, "logit_scale": logit_scale}
    if mask is not None:
        operands["mask"] = mask
    if kind == "sigmoid":
        if token_ids is None:
            token_ids = jnp.arange(len(image_features), dtype=jnp.int32)[:, None]
        operands |= {"logit_bias": logit_bias, "token_ids": token_ids}
    local = {"softmax": _softmax, "sigmoid": _sigmoid}[kind]
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return local(operands, block=block, axes=())
    rows = P(BATCH_AXES)
    specs = {name: rows if operand.ndim else P() for name, operand in operands.items()}
    local = functools.partial(local, block=block, axes=BATCH_AXES)
    return jax.shard_map(local, in_specs=(specs,), out_specs=P())(operands)


def _softmax(operands, *, block, axes):
    """(CE over texts + CE over images) / 2; a block gives its part of both normalisers."""
    image, text = (operands[name].astype(jnp.float32) for name in ("image", "text"))
    scale, mask = jnp.exp(operands["logit_scale"]), operands.get("mask")

    def normalisers(texts, counts, is_text):
        logits = jnp.where(is_text, _products(scale * image, texts), -jnp.inf)  # [b local, block]
        # Padding's columns are -inf throughout: 0 there keeps their gradient finite.
        by_image = jnp.where(is_text, logits, 0)
        if mask is not None:
            # Finite, as all pairs of a block may be left out.
            logits = jnp.where(is_text & ~counts, LEFT_OUT, logits)
            by_image = jnp.where(mask[:, None], by_image, LEFT_OUT)
        return jax.nn.logsumexp(logits, axis=1), jax.nn.logsumexp(by_image, axis=0)

    counts = jnp.ones(len(text), bool) if mask is None else mask
    columns = _gather(text, axes), _gather(counts, axes)
    over_texts, over_images = _blockwise(normalisers, columns, block)
    over_texts = jax.nn.logsumexp(over_texts, axis=0)  # [b local]
    b = len(text) * _size(axes)
    over_images = _logsumexp_over(over_images.reshape(-1)[:b], axes)  # [b]
    matched = scale * jnp.sum(image * text, axis=1)
    if mask is None:
        return (_sum(over_texts - 2 * matched, axes) + jnp.sum(over_images)) / (2 * b)
    by_text = _sum(jnp.where(mask, over_texts - 2 * matched, 0), axes)
    by_image = jnp.sum(jnp.where(columns[1], over_images, 0))
    return (by_text + by_image) / (2 * jnp.maximum(jnp.sum(columns[1]), 1))


def _sigmoid(operands, *, block, axes):
    """-sum_ij log sigmoid(+-(s x_i y_j + bias)) / b."""
    image, text = (operands[name].astype(jnp.float32) for name in ("image", "text"))
    scale, mask = jnp.exp(operands["logit_scale"]), operands.get("mask")
    token_ids = operands["token_ids"]

    def pairs(texts, ids, counts, is_text):
        logits = _products(scale * image, texts) + operands["logit_bias"]  # [b local, block]
        sign = jnp.where(jnp.all(token_ids[:, None] == ids[None], axis=-1), 1.0, -1.0)
        is_pair = is_text if mask is None else is_text & counts & mask[:, None]
        return -jnp.sum(jnp.where(is_pair, jax.nn.log_sigmoid(sign * logits), 0), axis=1)

    counts = jnp.ones(len(text), bool) if mask is None else mask
    columns = tuple(_gather(x, axes) for x in (text, token_ids, counts))
    total = len(text) * _size(axes) if mask is None else jnp.maximum(jnp.sum(columns[2]), 1)
    return _sum(_blockwise(pairs, columns, block), axes) / total


def _products(x, y):
    """Inner products in float32, on accelerators as well."""
    return jnp.matmul(x, y.T, precision="highest")


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
