"""The image generator: an id after another, each drawn given those before it and a condition."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import family_of
from toklip_jax.models.generator.config import INIT_STD, GeneratorConfig, GPTConfig
from toklip_jax.models.toklip.token_encoder import init_encoder_cache
from toklip_jax.nn.cache import KVCache, empty_cache
from toklip_jax.nn.config import Compute
from toklip_jax.nn.norms import build_norm
from toklip_jax.nn.transformer import Stack
from toklip_jax.ops.activations import activation
from toklip_jax.ops.dropout import dropout
from toklip_jax.ops.products import dot_general
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


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
        x = condition
        if self.config.semantic != "none":
            x = self.fuse.without_token(x)
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


class GeneratorModel(nn.Module):
    """A GPT with the tokenizer that its ids are of: what its methods take are ids alone.

    Attributes:
        config: without a tokenizer, only what needs none works.
    """

    config: GeneratorConfig
    compute: Compute

    def setup(self):
        self.gpt = GPT(self.config.gpt, self.compute)
        if self.config.tokenizer is not None:
            self.tokenizer = family_of(self.config.tokenizer).build(
                self.config.tokenizer, self.compute
            )

    def __call__(self, ids: Int[Array, "b n *q"], condition: Any, *tokenizer_inputs: jax.Array):
        """Runs every parameter: what initialisation calls."""
        if self.config.tokenizer is not None:
            self.tokenizer(*tokenizer_inputs)
        if self.config.gpt.caption_dim:
            self.gpt.null_caption()
        return self.logits(ids, condition)

    def logits(
        self,
        ids: Int[Array, "b n *q"],
        condition: Any,
        valid: Bool[Array, "b p"] | None = None,
        dropout_key: jax.Array | None = None,
    ):
        """Returns float32 logits of every row, the condition's first, [b, p + n, v].

        Row p - 1 + i gives those of id i; the last row those of the id after these n. Where a place
        has q ids, it is a tuple of q, for the ids of rows p - 1 to p + n - 2, [b, n, v] each.

        Args:
            ids: the first n ids of each image.
            condition: class ids [b], or captions' features [b, p, c]. The null condition is the
                class after the last, or `GPT.null_caption`.
            valid: which rows of the condition count.
            dropout_key: draws what training drops.
        """
        rows = self.gpt.embed_condition(condition)
        out = self.gpt(ids, rows, *self._inputs(ids), valid, dropout_key)
        if self.config.gpt.codes_per_place == 1:
            return self.gpt.logits(out)
        return self.gpt.logits(out[:, rows.shape[1] - 1 : -1], ids)

    def hidden(
        self,
        ids: Int[Array, "b n *q"],
        condition: Any,
        valid: Bool[Array, "b p"] | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "b n d"]:
        """Returns the outputs that give the logits of ids 0 to n - 1; id n - 1 is not looked at."""
        seen = ids[:, :-1]
        rows = self.gpt.embed_condition(condition)
        out = self.gpt(seen, rows, *self._inputs(seen), valid, dropout_key)
        return out[:, rows.shape[1] - 1 :]

    def logits_of(
        self, x: Float[Array, "*b d"], code: int, ids: Int[Array, "*b q"] | None = None
    ) -> Float[Array, "*b v"]:
        """Returns float32 logits of a place's id number `code`, given its ids before that."""
        return self.gpt.logits_of(x, code, ids)

    def null_caption(self) -> Float[Array, "p c"]:
        """Returns the features that stand for no caption."""
        return self.gpt.null_caption()

    def prefill(
        self,
        condition: Any,
        caches: "Caches",
        ids: Int[Array, "b n *q"] | None = None,
        valid: Bool[Array, "b p"] | None = None,
    ) -> tuple[Float[Array, "b d"], "Caches"]:
        """Returns the output that gives the first id to draw, and the caches.

        Args:
            condition: as `logits` takes; may have a multiple of the ids' rows, which repeat.
            ids: the first n ids, where an image is completed.
            valid: which rows of the condition count.
        """
        rows = self.gpt.embed_condition(condition)
        out, cache = self.gpt.prefill(rows, caches.gpt, valid)
        caches = caches.replace(gpt=cache)
        if ids is None or not ids.shape[1]:
            return out, caches
        vectors, tokens, encoder = self._extend(ids, caches.encoder)
        repeated = [_repeat(x, len(rows)) for x in (ids, vectors, tokens)]
        out, cache = self.gpt.extend(*repeated[:1], caches.gpt, *repeated[1:])
        return out[:, -1], caches.replace(gpt=cache, encoder=encoder)

    def step(
        self, ids: Int[Array, "b *q"], caches: "Caches", copies: int = 1
    ) -> tuple[Float[Array, "c d"], "Caches"]:
        """Returns the output after one more place, and the caches.

        The token encoder sees each row once, however many conditions it has.

        Args:
            ids: those of the place.
            copies: conditions that each row has, one after another in the GPT's batch: 2 under
                guidance.
        """
        vectors, tokens, encoder = self._extend(ids[:, None], caches.encoder)
        repeated = [_repeat(x, len(ids) * copies) for x in (ids[:, None], vectors, tokens)]
        out, cache = self.gpt.extend(*repeated[:1], caches.gpt, *repeated[1:])
        return out[:, -1], caches.replace(gpt=cache, encoder=encoder)

    @nn.nowrap
    def init_caches(self, batch_size: int, copies: int = 1) -> "Caches":
        """Returns empty caches for whole images, in the type of the activations."""
        gpt = self.config.gpt
        size, dtype = gpt.num_positions, self.compute.jax_dtype
        encoder = None
        if gpt.semantic != "none":
            encoder = init_encoder_cache(self.config.tokenizer.vision, batch_size, dtype)
        return Caches(empty_cache(gpt.stack, batch_size * copies, size, dtype), encoder)

    def tokenize(self, images: Float[Array, "b h w 3"]) -> Int[Array, "b n *q"]:
        """Returns ids, int32, of RGB images in [-1, 1]."""
        return self._tokenizer().tokenize(images)

    def detokenize(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b h w 3"]:
        """Returns images, float32, nominally in [-1, 1]."""
        tokenizer = self._tokenizer()
        vq = tokenizer.vq if family_of(self.config.tokenizer).role == "toklip" else tokenizer
        return vq.detokenize(ids, self.config.gpt.grid)

    def image_features(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b d"]:
        """Returns TokLIP's pooled feature of ids, not normalised."""
        return self._toklip().image_features(ids)

    def prefix_features(
        self, ids: Int[Array, "b n *q"], counts: tuple[int, ...]
    ) -> Float[Array, "b k d"]:
        """Returns TokLIP's pooled features of the first `counts` ids, not normalised."""
        return self._toklip().prefix_features(ids, counts)

    def text_tokens(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Returns the tokens of TokLIP's text tower, which may be a caption's features."""
        return self._toklip().text_tokens(token_ids)

    def text_features(self, token_ids: Int[Array, "b t"]) -> Float[Array, "b d"]:
        """Returns TokLIP's text features, not normalised."""
        return self._toklip().text_features(token_ids)

    def _inputs(self, ids):
        """What the GPT sees of ids beside themselves: code vectors and semantic tokens, or None."""
        gpt, vectors, tokens = self.config.gpt, None, None
        if gpt.code_input == "codebook" or gpt.semantic != "none":
            vectors = jax.lax.stop_gradient(self.tokenizer.code_vectors(ids))
        if gpt.semantic != "none":
            tokens = self.tokenizer.prefix_tokens(vectors)
        return vectors if gpt.code_input == "codebook" else None, tokens

    def _extend(self, ids, cache):
        """As `_inputs`, of ids that follow those in the encoder's cache; and the cache."""
        gpt = self.config.gpt
        if gpt.semantic == "none":
            return *self._inputs(ids), cache
        b, n = ids.shape[:2]
        positions = jnp.broadcast_to(cache.length + jnp.arange(n), (b, n))
        tokens, cache = self.tokenizer.semantic_extend(ids, positions, cache)
        is_read = gpt.code_input == "codebook"
        return self.tokenizer.code_vectors(ids) if is_read else None, tokens, cache

    def _tokenizer(self):
        if self.config.tokenizer is None:
            raise UserError(
                "expected a generator with its tokenizer, got one alone: load it with "
                "vq=PATH, the weights of the VQ tokenizer that it was trained with"
            )
        return self.tokenizer

    def _toklip(self):
        self._tokenizer()
        if family_of(self.config.tokenizer).role != "toklip":
            raise UserError(
                "expected a generator with TokLIP, which has image and text features, got one with "
                "a VQ tokenizer alone"
            )
        return self.tokenizer


@flax.struct.dataclass
class Caches:
    """What sampling keeps: the GPT's keys and values, and the token encoder's or None."""

    gpt: KVCache
    encoder: KVCache | None


class ClassCondition(nn.Module):
    """A table with a row for each class, and one for none."""

    config: GPTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, classes: Int[Array, " b"]) -> Float[Array, "b 1 d"]:
        init = nn.initializers.normal(INIT_STD)
        shape = (self.config.num_classes + 1, self.config.width)
        table = self.param("embed", init, shape, jnp.float32)
        return jnp.take(table, classes, axis=0, mode="clip")[:, None].astype(self.dtype)


class CaptionCondition(nn.Module):
    """Two linear layers from a text encoder's features to the width (tanh GELU, no biases)."""

    config: GPTConfig
    dtype: jnp.dtype

    def setup(self):
        config = self.config
        self.fc1 = linear(config.width, self.dtype)
        self.fc2 = linear(config.width, self.dtype)
        init = nn.initializers.normal(config.caption_dim**-0.5)
        self.uncond = self.param(
            "uncond", init, (config.caption_length, config.caption_dim), jnp.float32
        )

    def __call__(self, captions: Float[Array, "b p c"]) -> Float[Array, "b p d"]:
        return self.fc2(activation("gelu_tanh")(self.fc1(captions.astype(self.dtype))))

    def null(self) -> Float[Array, "p c"]:
        return self.uncond


class PlaceEmbedding(nn.Module):
    """An embedding of each of a place's ids, summed."""

    sizes: tuple[int, ...]
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids: Int[Array, "*b q"]) -> Float[Array, "*b d"]:
        init = nn.initializers.normal(INIT_STD)
        rows = []
        for i, size in enumerate(self.sizes):
            table = self.param(f"codes_{i}", init, (size, self.width), jnp.float32)
            rows.append(jnp.take(table, ids[..., i], axis=0, mode="clip"))
        return sum(rows).astype(self.dtype)


class SemanticInput(nn.Module):
    """Joins the token encoder's tokens to the ids' embeddings: added, or end to end."""

    config: GPTConfig
    dtype: jnp.dtype

    def setup(self):
        self.linear = linear(self.config.width, self.dtype)
        init = nn.initializers.normal(1.0)  # as the tokens, which a norm has left
        self.start = self.param("start", init, (self.config.semantic_dim,), jnp.float32)

    def __call__(
        self, x: Float[Array, "b n d"], tokens: Float[Array, "b n e"]
    ) -> Float[Array, "b n d"]:
        tokens = tokens.astype(self.dtype)
        if self.config.semantic == "add":
            return x + self.linear(tokens)
        return self.linear(jnp.concatenate([x, tokens], axis=-1))

    def without_token(self, x: Float[Array, "b p d"]) -> Float[Array, "b p d"]:
        """Returns rows that have no token, with the learned vector in its place."""
        start = jnp.broadcast_to(self.start.astype(self.dtype), (*x.shape[:2], len(self.start)))
        return self(x, start)


class Heads(nn.Module):
    """A linear layer to the logits of each of a place's ids; zero at first, as LlamaGen's is.

    The head of the second and later ids also sees an embedding of the place's ids before it, so
    that a place's ids are drawn one given another.
    """

    sizes: tuple[int, ...]
    width: int
    dtype: jnp.dtype

    def setup(self):
        zeros, normal = nn.initializers.zeros, nn.initializers.normal(INIT_STD)
        self.kernels = [
            self.param(f"codes_{i}", zeros, (self.width, size), jnp.float32)
            for i, size in enumerate(self.sizes)
        ]
        self.before = [
            self.param(f"before_{i}", normal, (size, self.width), jnp.float32)
            for i, size in enumerate(self.sizes[:-1])
        ]

    def __call__(
        self, x: Float[Array, "*b d"], code: int, ids: Int[Array, "*b q"] | None
    ) -> Float[Array, "*b v"]:
        for i in range(code):
            x = x + jnp.take(self.before[i], ids[..., i], axis=0, mode="clip").astype(x.dtype)
        kernel = self.kernels[code].astype(self.dtype)
        logits = jnp.matmul(x.astype(self.dtype), kernel, preferred_element_type=jnp.float32)
        return constrain(logits, BATCH_AXES, *(None,) * (logits.ndim - 2), "tensor")


def linear(features: int, dtype: jnp.dtype) -> nn.Dense:
    """Returns a linear layer without bias, initialised as LlamaGen's."""
    return nn.Dense(
        features,
        use_bias=False,
        dtype=dtype,
        dot_general=dot_general,
        kernel_init=nn.initializers.normal(INIT_STD),
    )


def _expect(array, name):
    if array is None:
        raise UserError(f"expected {name} with this generator's inputs, got none: pass {name}=...")
    return array


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


def _repeat(x, rows):
    """Rows of an array, all repeated one set after another up to `rows`."""
    return x if x is None or len(x) == rows else jnp.tile(x, (rows // len(x), *(1,) * (x.ndim - 1)))
