"""The image generator: a GPT with the tokenizer whose ids it draws."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import family_of
from toklip_jax.models.generator.config import GeneratorConfig
from toklip_jax.models.generator.gpt import GPT
from toklip_jax.models.toklip.token_encoder import init_encoder_cache
from toklip_jax.nn.cache import KVCache, empty_cache
from toklip_jax.nn.config import Compute


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
        valid: Bool[Array, "c p"] | None = None,
    ) -> tuple[Float[Array, "c d"], "Caches"]:
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
        ids, vectors, tokens = (_repeat(x, len(rows)) for x in (ids, vectors, tokens))
        out, cache = self.gpt.extend(ids, caches.gpt, vectors, tokens)
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
        place = ids[:, None]
        vectors, tokens, encoder = self._extend(place, caches.encoder)
        place, vectors, tokens = (_repeat(x, len(ids) * copies) for x in (place, vectors, tokens))
        out, cache = self.gpt.extend(place, caches.gpt, vectors, tokens)
        return out[:, -1], caches.replace(gpt=cache, encoder=encoder)

    @nn.nowrap
    def init_caches(self, batch_size: int, copies: int = 1) -> "Caches":
        """Returns empty caches for whole images, in the type of the activations."""
        gpt, compute, encoder = self.config.gpt, self.compute, None
        if gpt.semantic != "none":
            encoder = init_encoder_cache(self.config.tokenizer.vision, compute, batch_size)
        size = batch_size * copies, gpt.num_positions
        return Caches(empty_cache(gpt.stack, *size, compute.jax_dtype, compute.is_scanned), encoder)

    @nn.nowrap
    def fit_caches(self, caches: "Caches", places: int) -> "Caches":
        """Returns caches with room for the first `places` places of an image and no more."""
        encoder = None if caches.encoder is None else caches.encoder.resized(places)
        return Caches(caches.gpt.resized(self.config.gpt.prefix + places), encoder)

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


def _repeat(x, rows):
    """Rows of an array, all repeated one set after another up to `rows`."""
    return x if x is None or len(x) == rows else jnp.tile(x, (rows // len(x), *(1,) * (x.ndim - 1)))
