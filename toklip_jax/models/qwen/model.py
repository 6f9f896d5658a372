"""Qwen2.5 and Qwen3: a causal transformer over tokens, in parallel and with a cache."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.models.qwen.config import INIT_STD, QwenConfig
from toklip_jax.nn.cache import EMPTY, KVCache, empty_cache
from toklip_jax.nn.config import Compute
from toklip_jax.nn.norms import build_norm
from toklip_jax.nn.transformer import Stack
from toklip_jax.ops.products import table_products
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class Qwen(nn.Module):
    """A language model: embedding, transformer, final norm, head.

    What runs over ids also runs over embeddings, `embed(ids)` or what stands in their place: tokens
    of images, for example. Positions and segments are as `nn.transformer.Stack` takes them, so that
    rows may be padded on either side and hold several packed sequences.
    """

    config: QwenConfig
    compute: Compute

    def setup(self):
        config = self.config
        normal = nn.initializers.normal(INIT_STD)
        self.table = self.param(
            "token_embed", normal, (config.vocab_size, config.width), jnp.float32
        )
        self.stack = Stack(config.stack, self.compute)
        self.norm = build_norm(config.stack, self.compute.jax_dtype, None)
        if not config.is_tied:
            shape = (config.width, config.vocab_size)
            self.kernel = self.param("head_kernel", normal, shape, jnp.float32)

    def __call__(self, ids: Int[Array, "b t"]) -> Float[Array, "b t v"]:
        """Returns `logits`; what initialisation calls."""
        return self.logits(ids)

    def embed(self, ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        """Returns the embeddings of ids, in the type of the activations."""
        rows = jnp.take(self.table, ids, axis=0, mode="clip")
        return rows.astype(self.compute.jax_dtype)

    def hidden(
        self,
        x: Float[Array, "b t d"],
        segment_ids: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Returns the outputs after the final norm, which `head` turns into logits.

        Args:
            x: embeddings.
            segment_ids: which of the sequences packed into a row each token belongs to, negative
                for padding; a token sees its own sequence only. One sequence unless given.
            positions: each token's place in its sequence, negative for padding. Unless given they
                count from 0, anew in each segment.
        """
        if segment_ids is not None and positions is None:
            positions = positions_in(segment_ids)
        x, _ = self.stack(x.astype(self.compute.jax_dtype), positions, segment_ids)
        return self.norm(x)

    def head(self, x: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Returns float32 logits of outputs, whatever the type of the activations."""
        x = x.astype(self.compute.jax_dtype)
        if self.config.is_tied:
            logits = table_products(x, jnp.asarray(self.table, x.dtype))
        else:
            logits = jnp.matmul(
                x, jnp.asarray(self.kernel, x.dtype), preferred_element_type=jnp.float32
            )
        return constrain(logits, BATCH_AXES, *(None,) * (logits.ndim - 2), "tensor")

    def logits(
        self,
        ids: Int[Array, "b t"],
        segment_ids: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
    ) -> Float[Array, "b t v"]:
        """Returns float32 logits of every token's successor; arguments are those of `hidden`."""
        return self.head(self.hidden(self.embed(ids), segment_ids, positions))

    def prefill(
        self,
        x: Float[Array, "b t d"],
        cache: KVCache,
        positions: Int[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b d"], KVCache]:
        """Returns the output of the last token, whose head gives the next id, and the cache.

        Args:
            x: embeddings. Prompts of different lengths are padded on the left.
            cache: one from `init_cache`, or one that holds what stands before.
            positions: each token's place, negative for padding; those that follow the cache unless
                given.
        """
        x, cache = self.stack(x.astype(self.compute.jax_dtype), positions, cache=cache)
        return self.norm(x[:, -1]), cache

    def step(
        self, ids: Int[Array, " b"], cache: KVCache, positions: Int[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b d"], KVCache]:
        """Returns the output after one more id of each row, and the cache.

        Args:
            positions: each id's place; the next in the cache unless given. Rows that were padded
                have places of their own.
        """
        places = None if positions is None else positions[:, None]
        return self.prefill(self.embed(ids[:, None]), cache, places)

    @nn.nowrap
    def init_cache(self, batch_size: int, size: int) -> KVCache:
        """Returns an empty cache for `size` tokens of each row, in the type of the activations.

        It has as many heads as there are keys and values: none is repeated for the query heads.
        """
        compute = self.compute
        stack, is_scanned = self.config.stack, compute.is_scanned
        return empty_cache(stack, batch_size, size, compute.jax_dtype, is_scanned)


def positions_in(segment_ids: Int[Array, "b t"]) -> Int[Array, "b t"]:
    """Returns each token's place within its run of equal segment ids; -1 where they are negative.

    A sequence stands in one piece: where its id comes again after another's, places start again.
    """
    places = jnp.broadcast_to(jnp.arange(segment_ids.shape[1]), segment_ids.shape)
    is_first = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
    starts = jax.lax.cummax(jnp.where(is_first, places, 0), axis=1)
    return jnp.where(segment_ids < 0, EMPTY, places - starts)
