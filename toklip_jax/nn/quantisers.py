"""Quantisers turn latents into ids, and ids into vectors; each is a module of its own.

All have the methods of `VectorQuantiser`: `encode`, `lookup`, `train`, `row_losses` and
`between_rows`. A quantiser may give several ids a place, and may have no codebook at all.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.losses.quantisation import codebook_losses, commitment_losses, entropy_loss
from toklip_jax.ops.nearest import nearest_code
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.parallel.sharding import map_sharded_rows


@flax.struct.dataclass
class Quantised:
    """The result of quantising latents in training.

    Attributes:
        vectors: quantised latents, float32 [b, n, c]; their gradient goes straight to the latents.
        ids: int32 [b, n] or [b, n, q].
        latents: the vectors that were compared with the codes, float32 [b, n, c].
        codes: the codes chosen, float32 [b, n, c]; gradients reach the codebook.
    """

    vectors: jax.Array
    ids: jax.Array
    latents: jax.Array
    codes: jax.Array


class VectorQuantiser(nn.Module):
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
        return self._search(self.normalise(latents))

    def lookup(self, ids: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Returns the codes' vectors, float32; NaN for ids outside the codebook."""
        ids = jnp.where(ids < 0, self.codebook_size, ids)  # negative ids would count from its end
        return self.normalise(jnp.take(self.codebook, ids, axis=0))

    def train(self, latents: Float[Array, "b n c"]) -> Quantised:
        """Returns the codes through the straight-through estimator, and what losses need."""
        latents = self.normalise(latents)
        ids = self._search(latents)
        codes = self.lookup(ids)
        straight = latents + jax.lax.stop_gradient(codes - latents)
        return Quantised(straight, ids, latents, codes)

    def row_losses(self, quantised: Quantised) -> dict[str, Float[Array, " b"]]:
        """Returns the losses of each row alone: "codebook" and "commitment"."""
        latents, codes = quantised.latents, quantised.codes
        return {
            "codebook": codebook_losses(latents, codes),
            "commitment": commitment_losses(latents, codes),
        }

    def between_rows(
        self, latents: Float[Array, "b n c"], mask: Bool[Array, " b"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """Returns the losses that compare all rows of a batch: "entropy", nats.

        Args:
            latents: those of `Quantised`.
            mask: rows that count; all unless given.
        """
        return {"entropy": entropy_loss(latents, self._codes(), mask)}

    def normalise(self, vectors: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Returns vectors in float32, at unit length if codes are compared at unit length."""
        vectors = vectors.astype(jnp.float32)
        return l2_normalize(vectors) if self.is_l2_normalised else vectors

    def _search(self, latents):
        """The ids of latents that are normalised already."""

        def search(latents, codes):
            b, n, c = latents.shape
            return nearest_code(latents.reshape(-1, c), codes).reshape(b, n)

        return map_sharded_rows(search, *jax.lax.stop_gradient((latents, self._codes())))

    def _codes(self):
        return self.normalise(self.codebook)

    def _init_codebook(self, key, shape):
        bound = 1 / shape[0]
        codes = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        return l2_normalize(codes) if self.is_l2_normalised else codes
