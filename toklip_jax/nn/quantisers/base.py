"""The interface of a quantiser."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.losses.quantisation import codebook_losses, commitment_losses


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


class Quantiser(nn.Module):
    """The base of quantisers; one may give several ids a place, and may have no codebook at all."""

    def encode(self, latents: Float[Array, "b n c"]) -> Int[Array, "b n *q"]:
        """Returns the ids of latents, int32; no gradient passes."""
        raise NotImplementedError

    def lookup(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b n c"]:
        """Returns the vectors that ids stand for, float32; NaN for ids outside the codebook."""
        raise NotImplementedError

    def train(self, latents: Float[Array, "b n c"]) -> Quantised:
        """Returns the codes through the straight-through estimator, and what losses need."""
        raise NotImplementedError

    def normalise(self, latents: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Returns latents as they are compared with the codes, float32."""
        return latents.astype(jnp.float32)

    def compared(
        self, latents: Float[Array, "b n c"], ids: Int[Array, "b n *q"]
    ) -> Float[Array, "q m e"]:
        """Returns all vectors that were compared with the codes of each codebook, float32.

        They are what a code that no latent chooses can be replaced by. Rows stay in their order,
        those of all ids of a place in turn where they share a codebook.

        Args:
            latents, ids: those of `Quantised`.
        """
        del ids
        return latents.reshape(1, -1, latents.shape[-1])

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
        """Returns the losses that compare all rows of a batch, by name, such as "entropy" in nats.

        Args:
            latents: those of `Quantised`.
            mask: rows that count; all unless given.
        """
        del latents, mask
        return {}
