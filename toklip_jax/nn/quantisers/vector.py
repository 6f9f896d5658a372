"""Nearest code by Euclidean distance, of raw vectors or of vectors at unit length."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.losses.quantisation import entropy_loss
from toklip_jax.nn.quantisers.base import Quantised, Quantiser
from toklip_jax.nn.quantisers.codebook import init_codebook, rows_of, search_codes
from toklip_jax.ops.normalize import l2_normalize


class VectorQuantiser(Quantiser):
    """Nearest code of a codebook, by Euclidean distance (VQ-VAE, arXiv 1711.00937).

    Attributes:
        codebook_size: number of codes.
        codebook_dim: length of a code vector.
        is_l2_normalised: latents and codes are compared, and codes returned, at unit length.
    """

    codebook_size: int
    codebook_dim: int
    is_l2_normalised: bool = False

    def setup(self):
        shape = (self.codebook_size, self.codebook_dim)
        self.codebook = self.param("codebook", self._init_codebook, shape)

    def encode(self, latents: Float[Array, "b n c"]) -> Int[Array, "b n"]:
        """Returns the id of the code nearest to each latent; no gradient passes."""
        return search_codes(self.normalise(latents), self._codes())

    def lookup(self, ids: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Returns the codes' vectors, float32; NaN for ids outside the codebook."""
        return self.normalise(rows_of(self.codebook, ids))

    def train(self, latents: Float[Array, "b n c"]) -> Quantised:
        """Returns the codes through the straight-through estimator, and what losses need."""
        latents = self.normalise(latents)
        ids = search_codes(latents, self._codes())
        codes = self.lookup(ids)
        straight = latents + jax.lax.stop_gradient(codes - latents)
        return Quantised(straight, ids, latents, codes)

    def between_rows(
        self, latents: Float[Array, "b n c"], mask: Bool[Array, " b"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """Returns "entropy", nats: see `losses.quantisation.entropy_loss`."""
        return {"entropy": entropy_loss(latents, self._codes(), mask)}

    def normalise(self, latents: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Returns vectors in float32, at unit length if codes are compared at unit length."""
        latents = latents.astype(jnp.float32)
        return l2_normalize(latents) if self.is_l2_normalised else latents

    def _codes(self):
        return self.normalise(self.codebook)

    def _init_codebook(self, key, shape):
        codes = init_codebook(key, shape)
        return l2_normalize(codes) if self.is_l2_normalised else codes
