"""Several codebooks side by side, each for its share of the channels (UniTok)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.losses.soft_assignment import blockwise_entropy
from toklip_jax.nn.quantisers.base import Quantised, Quantiser
from toklip_jax.nn.quantisers.codebook import (
    check_ids_a_place,
    init_codebook,
    rows_of,
    search_codes,
)
from toklip_jax.ops.normalize import l2_normalize


class SeveralCodebooks(Quantiser):
    """Cuts latents into chunks, each of which takes the most alike code of its own codebook.

    Multi-codebook quantisation of UniTok (arXiv 2502.20321, section 3.2). Chunks and codes are
    compared by their cosine, and codes are returned at unit length, so that a place's vector has
    the length sqrt(count).

    Attributes:
        count: number of codebooks, and of ids a place.
        codebook_size: number of codes in each.
        codebook_dim: length of a code; latents have `count` times as many channels.
    """

    count: int
    codebook_size: int
    codebook_dim: int

    def setup(self):
        shape = (self.count, self.codebook_size, self.codebook_dim)
        self.codebook = self.param("codebook", _init_unit_codebooks, shape)

    def encode(self, latents: Float[Array, "b n c"]) -> Int[Array, "b n q"]:
        """Returns the ids of the codes most alike, int32; no gradient passes."""
        return self._search(self.normalise(latents))

    def lookup(self, ids: Int[Array, "b n q"]) -> Float[Array, "b n c"]:
        """Returns the codes' vectors joined, float32; NaN for ids outside their codebooks.

        Raises:
            ValueError: another number of ids a place than of codebooks.
        """
        check_ids_a_place(ids, self.count)
        rows = jax.vmap(rows_of, in_axes=(0, -1), out_axes=-2)(self.codebook, ids)  # [b, n, q, e]
        return _joined(l2_normalize(rows))

    def train(self, latents: Float[Array, "b n c"]) -> Quantised:
        """Returns the codes through the straight-through estimator, and what losses need."""
        latents = self.normalise(latents)
        ids = self._search(latents)
        codes = self.lookup(ids)
        straight = latents + jax.lax.stop_gradient(codes - latents)
        return Quantised(straight, ids, latents, codes)

    def normalise(self, latents: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Returns latents in float32, each chunk at unit length."""
        return _joined(l2_normalize(self._chunks(latents)))

    def compared(
        self, latents: Float[Array, "b n c"], ids: Int[Array, "b n q"]
    ) -> Float[Array, "q m e"]:
        """Returns the chunks that were compared with the codes of each codebook, float32."""
        del ids
        return self._by_codebook(latents).reshape(self.count, -1, self.codebook_dim)

    def between_rows(
        self, latents: Float[Array, "b n c"], mask: Bool[Array, " b"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """Returns "entropy", nats: the mean over codebooks (`losses.soft_assignment`).

        UniTok's own adds 1e-7 where ours, as LlamaGen's, adds 1e-5 to a code's mean probability.
        Its published weights were trained without this loss.
        """

        def one(pair):
            return blockwise_entropy(*pair, mask)

        entropies = jax.lax.map(one, (self._by_codebook(latents), l2_normalize(self.codebook)))
        return {"entropy": jnp.mean(entropies)}

    def _search(self, latents):
        def one(pair):
            return search_codes(*pair, "inner_product")

        ids = jax.lax.map(one, (self._by_codebook(latents), l2_normalize(self.codebook)))
        return jnp.moveaxis(ids, 0, -1)  # [b, n, q]

    def _by_codebook(self, latents):
        return jnp.moveaxis(self._chunks(latents), -2, 0)  # [q, b, n, e]

    def _chunks(self, latents):
        return latents.reshape(*latents.shape[:-1], self.count, self.codebook_dim)


def _joined(chunks):
    return chunks.reshape(*chunks.shape[:-2], -1)


def _init_unit_codebooks(key, shape):
    return l2_normalize(init_codebook(key, shape))
