"""LlamaGen's GPT (arXiv 2406.06525): each id given a condition and the ids before it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.generator.config import GPTConfig
from toklip_jax.models.generator.layers import (
    CaptionCondition,
    ClassCondition,
    Heads,
    PlaceEmbedding,
    SemanticInput,
    linear,
)
from toklip_jax.nn.cache import KVCache
from toklip_jax.nn.config import Compute
from toklip_jax.nn.norms import build_norm
from toklip_jax.nn.transformer import Stack
from toklip_jax.ops.dropout import dropout


class GPT(nn.Module):
    """LlamaGen's GPT, which may also see TokLIP's token of every id (TokLIP paper, section 3).

    A sequence is the condition's rows, then the ids in row-major order. The row before id i, which
    sees the condition and ids 0 to i - 1, gives the logits of id i. Where a place has q ids, each
    has an embedding and a head of its own, and the head of one also sees the place's ids before it.

    Semantic tokens are `TokenEncoder.tokens` of the same ids: that of id i depends on ids 0 to i
    alone. The condition's rows have a learned vector in its place.
    """

    config: GPTConfig
    compute: Compute

    def setup(self):
        config, dtype = self.config, self.compute.jax_dtype
        if config.caption_dim:
            self.condition = CaptionCondition(config, dtype)
        else:
            self.condition = ClassCondition(config, dtype)
        if config.code_input == "learned":
            self.embed = PlaceEmbedding(config.codebook_sizes, config.width, dtype)
        else:
            self.code_embed = linear(config.width, dtype)
        if config.semantic != "none":
            self.fuse = SemanticInput(config, dtype)
        self.stack = Stack(config.stack, self.compute)
        self.norm = build_norm(config.stack, dtype, None)
        self.head = Heads(config.codebook_sizes, config.width, dtype)

    def __call__(
        self,
        ids: Int[Array, "b n *q"],
        condition: Any,
        code_vectors: Float[Array, "b n c"] | None = None,
        semantic: Float[Array, "b n e"] | None = None,
        valid: Bool[Array, "b p"] | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "b s d"]:
        """Returns the output of every row after the final norm: the condition's, then the ids'.

        Args:
            ids: the first n ids of each image, all or fewer.
            condition: what `embed_condition` returns.
            code_vectors: those of the ids, for `code_input="codebook"`.
            semantic: the token encoder's tokens of the ids, for a `semantic` other than "none".
            valid: which of the condition's rows count; all unless given.
            dropout_key: draws what is dropped; None drops nothing.
        """
        x = self.join(condition, self.embed_ids(ids, code_vectors), semantic)
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x = dropout(x, self.config.dropout, keys[0])
        x, _ = self.stack(x, segments=self.segments(valid, *x.shape[:2]), dropout_key=keys[1])
        return self.norm(x)

    def embed_condition(self, condition: Any) -> Float[Array, "b p d"]:
        """Returns the condition's rows: of class ids [b], or of captions' features [b, p, c].

        The null condition is the class `config.null_class`, or `null_caption`.
        """
        return self.condition(condition)

    def null_caption(self) -> Float[Array, "p c"]:
        """Returns the features that stand for no caption."""
        return self.condition.null()

    def embed_ids(
        self, ids: Int[Array, "b n *q"], code_vectors: Float[Array, "b n c"] | None = None
    ) -> Float[Array, "b n d"]:
        """Returns the low-level input of ids, before semantic tokens join it."""
        if self.config.code_input == "learned":
            return self.embed(self._with_codes(ids))
        return self.code_embed(_expect(code_vectors, "code_vectors"))

    def join(
        self,
        condition: Float[Array, "b p d"],
        x: Float[Array, "b n d"],
        semantic: Float[Array, "b n e"] | None,
    ) -> Float[Array, "b s d"]:
        """Returns the rows that enter the transformer: the condition's and the ids'."""
        if self.config.semantic == "none":
            return jnp.concatenate([condition, x], axis=1)
        rows = self.fuse(x, _expect(semantic, "semantic"))
        return jnp.concatenate([self.fuse.without_token(condition), rows], axis=1)

    def segments(
        self, valid: Bool[Array, "b p"] | None, b: int, n: int
    ) -> Int[Array, "b n"] | None:
        """Returns the segments of n rows: a condition's row that doesn't count has its own.

        So it sees itself alone and nothing sees it, as in LlamaGen.
        """
        if valid is None:
            return None
        counts = jnp.pad(valid, ((0, 0), (0, n - valid.shape[1])), constant_values=True)
        return jnp.where(counts, 0, 1 + jnp.broadcast_to(jnp.arange(n), (b, n)))

    def prefill(
        self,
        condition: Float[Array, "b p d"],
        cache: KVCache,
        valid: Bool[Array, "b p"] | None = None,
    ) -> tuple[Float[Array, "b d"], KVCache]:
        """Returns the output of the condition's last row, which gives id 0, and the cache."""
        x = condition if self.config.semantic == "none" else self.fuse.without_token(condition)
        x, cache = self.stack(x, segments=self.segments(valid, *x.shape[:2]), cache=cache)
        return self.norm(x[:, -1]), cache

    def extend(
        self,
        ids: Int[Array, "b m *q"],
        cache: KVCache,
        code_vectors: Float[Array, "b m c"] | None = None,
        semantic: Float[Array, "b m e"] | None = None,
    ) -> tuple[Float[Array, "b m d"], KVCache]:
        """Returns the outputs of the next m places, whose ids these are, and the cache."""
        x = self.embed_ids(ids, code_vectors)
        if self.config.semantic != "none":
            x = self.fuse(x, _expect(semantic, "semantic"))
        x, cache = self.stack(x, cache=cache)
        return self.norm(x), cache

    def logits(
        self, x: Float[Array, "*b d"], ids: Int[Array, "*b q"] | None = None
    ) -> Float[Array, "*b v"] | tuple[Float[Array, "*b v"], ...]:
        """Returns float32 logits of outputs; a tuple, one of each head, where a place has q ids.

        Args:
            ids: the ids of the place that the outputs predict, where it has several: the head of
                one sees those before it.
        """
        sizes = self.config.codebook_sizes
        if len(sizes) == 1:
            return self.head(x, 0, None)
        return tuple(self.head(x, i, ids) for i in range(len(sizes)))

    def logits_of(
        self, x: Float[Array, "*b d"], code: int, ids: Int[Array, "*b q"] | None
    ) -> Float[Array, "*b v"]:
        """Returns float32 logits of a place's id number `code`, given its ids before that."""
        return self.head(x, code, ids)

    @nn.nowrap
    def _with_codes(self, ids):
        return ids[..., None] if self.config.codes_per_place == 1 else ids


def left_padded(
    captions: Float[Array, "b p c"], valid: Bool[Array, "b p"]
) -> tuple[Float[Array, "b p c"], Bool[Array, "b p"]]:
    """Returns captions' features with those that count at the end, and zeros before them.

    The last row of the condition gives the first id, so it must be one of the caption's.
    """
    order = jnp.argsort(valid, axis=1, stable=True)  # those that don't count first
    valid = jnp.take_along_axis(valid, order, axis=1)
    captions = jnp.take_along_axis(captions, order[..., None], axis=1)
    return jnp.where(valid[..., None], captions, 0), valid


def _expect(array, name):
    if array is None:
        raise UserError(f"expected {name} with this generator's inputs, got none: pass {name}=...")
    return array
