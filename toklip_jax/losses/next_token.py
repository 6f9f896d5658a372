"""The loss of a language model: each token's likelihood given those before it, in float32.

The logits of a batch of 2,048 tokens a row and a vocabulary of 152,064 take 1.2 GB a row. Here they
are computed for a block of the sequence at a time, and again in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

IGNORED = -100  # the label of a token that is not trained, as in PyTorch's cross entropy


@flax.struct.dataclass
class TokenSums:
    """Sums over the tokens that are trained, float32 scalars.

    Attributes:
        loss: of weight * (nats + z_loss * log(sum of exp(logits))^2).
        weight: of the weights.
        nats: of weight * -log p(token).
        correct: of the weights of tokens whose logit is the greatest.
    """

    loss: Any
    weight: Any
    nats: Any
    correct: Any


def targets_of(
    labels: Int[Array, "b t"], segment_ids: Int[Array, "b t"] | None = None
) -> tuple[Int[Array, "b t"], Bool[Array, "b t"]]:
    """Returns what each place has to predict, int32 [b, t], and which places count.

    The label of the next place, if that is trained and of the same sequence; the last place has
    none.

    Args:
        labels: the id of each place, or `IGNORED`; not shifted.
        segment_ids: which of the sequences packed into a row each place belongs to.
    """
    following = jnp.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)
    counts = following >= 0
    if segment_ids is not None:
        same = segment_ids[:, 1:] == segment_ids[:, :-1]
        counts &= jnp.pad(same, ((0, 0), (0, 1)))
    return jnp.where(counts, following, 0), counts


def next_token_sums(
    x: Float[Array, "b t d"],
    targets: Int[Array, "b t"],
    weights: Float[Array, "b t"],
    head: Callable[[Float[Array, "b s d"]], Float[Array, "b s v"]],
    *,
    z_loss: float = 0.0,
    block: int = 0,
) -> TokenSums:
    """Returns the sums of the losses of all places; differentiable in `x` and in what `head` reads.

    Args:
        x: outputs of the language model.
        targets: what each place has to predict; in the vocabulary also where nothing counts.
        weights: of the places, 0 where nothing counts.
        head: turns outputs into float32 logits.
        z_loss: weight of the squared logarithm of the softmax's denominator, which keeps logits
            near 0 (PaLM, arXiv 2204.02311, has 1e-4).
        block: places of each row whose logits are held at once; 0 holds those of all.
    """

    def sums(x, targets, weights):
        logits = head(x).astype(jnp.float32)
        log_mass = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        nats, is_correct = log_mass - chosen, jnp.argmax(logits, axis=-1) == targets
        losses = nats + z_loss * log_mass**2
        # What doesn't count may be infinite: it is left out, not multiplied by 0.
        parts = (losses, jnp.ones_like(losses), nats, is_correct)
        return TokenSums(*(jnp.sum(jnp.where(weights > 0, weights * y, 0)) for y in parts))

    length = x.shape[1]
    if not block or block >= length:
        return sums(x, targets, weights)
    count = -(-length // block)

    def split(array):
        """[b, t, ...] -> [blocks, b, block, ...], filled up with zeros."""
        padding = ((0, 0), (0, count * block - length), *((0, 0),) * (array.ndim - 2))
        array = jnp.pad(array, padding)
        return jnp.moveaxis(array.reshape(len(array), count, block, *array.shape[2:]), 1, 0)

    def add(total, part):
        return jax.tree.map(jnp.add, total, jax.checkpoint(sums)(*part)), None

    start = TokenSums(*(jnp.zeros(()) for _ in range(4)))
    return jax.lax.scan(add, start, (split(x), split(targets), split(weights)))[0]
