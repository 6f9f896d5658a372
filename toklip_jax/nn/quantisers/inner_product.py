"""The code of the greatest inner product, trained through all codes at once (IBQ)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.losses.soft_assignment import blockwise_entropy, soft_codes
from toklip_jax.nn.quantisers.base import Quantised, Quantiser
from toklip_jax.nn.quantisers.codebook import rows_of, search_codes


class InnerProductQuantiser(Quantiser):
    """The code of the greatest inner product with a latent (IBQ, arXiv 2412.02692).

    Neither latents nor codes are normalised. In training the value is the chosen code, and the
    gradient that of hard - sg(soft) + soft over all codes, where soft is the softmax of the inner
    products: every code moves at every step. No matrix of all scores is held.

    Attributes:
        codebook_size: number of codes.
        codebook_dim: length of a code vector.
    """

    codebook_size: int
    codebook_dim: int

    def setup(self):
        shape = (self.codebook_size, self.codebook_dim)
        self.codebook = self.param("codebook", _init_codebook, shape)

    def encode(self, latents: Float[Array, "b n c"]) -> Int[Array, "b n"]:
        """Returns the id of the code of the greatest inner product; no gradient passes."""
        return search_codes(self.normalise(latents), self.codebook, "inner_product")

    def lookup(self, ids: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Returns the codes' vectors, float32; NaN for ids outside the codebook."""
        return self.normalise(rows_of(self.codebook, ids))

    def train(self, latents: Float[Array, "b n c"]) -> Quantised:
        """Returns the codes, with the gradient of the soft assignment to all of them."""
        latents = self.normalise(latents)
        ids = self.encode(latents)
        codes = self.lookup(ids)
        b, n, c = latents.shape
        soft = soft_codes(latents.reshape(-1, c), self.codebook).reshape(b, n, c)
        return Quantised(codes + (soft - jax.lax.stop_gradient(soft)), ids, latents, codes)

    def between_rows(
        self, latents: Float[Array, "b n c"], mask: Bool[Array, " b"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """Returns "entropy", nats: see `losses.soft_assignment.blockwise_entropy`."""
        return {"entropy": blockwise_entropy(latents, self.codebook, mask, metric="inner_product")}


def _init_codebook(key, shape):
    """Codes about as long as latents are, from U(-c^-1/2, c^-1/2).

    IBQ draws them from U(-1/z, 1/z), whose inner products are all alike: in small batches one or a
    few codes then win everywhere, and stay the only ones.
    """
    bound = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
