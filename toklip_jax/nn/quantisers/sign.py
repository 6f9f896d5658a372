"""The signs of a latent's numbers as its code: lookup-free quantisation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.losses.quantisation import commitment_losses
from toklip_jax.losses.sign_entropy import sign_entropy
from toklip_jax.nn.quantisers.base import Quantised, Quantiser

MAX_BITS = 30  # the number of codes is an int32 as well


class SignQuantiser(Quantiser):
    """The signs of a latent (lookup-free quantisation of MAGVIT-v2, arXiv 2310.05737).

    There is no codebook: id = sum_i [v_i > 0] 2^i, so that zero counts as negative, and a code is
    the vector of -1 and 1 that its id's binary digits stand for, the lowest first.

    Attributes:
        bits: numbers of a latent; there are 2^bits codes.
    """

    bits: int

    def encode(self, latents: Float[Array, "b n c"]) -> Int[Array, "b n"]:
        """Returns the ids of the latents' signs; no gradient passes."""
        digits = (self.normalise(latents) > 0).astype(jnp.int32)
        return jnp.sum(digits << jnp.arange(self.bits), axis=-1, dtype=jnp.int32)

    def lookup(self, ids: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Returns vectors of -1 and 1, float32; NaN for ids outside [0, 2^bits)."""
        ids = ids.astype(jnp.int32)
        digits = (ids[..., None] >> jnp.arange(self.bits)) & 1
        is_code = (ids >= 0) & (ids < 2**self.bits)
        return jnp.where(is_code[..., None], 2.0 * digits - 1, jnp.nan)

    def train(self, latents: Float[Array, "b n c"]) -> Quantised:
        """Returns the signs through the straight-through estimator, and what losses need."""
        latents = self.normalise(latents)
        codes = jnp.where(latents > 0, 1.0, -1.0)
        straight = latents + jax.lax.stop_gradient(codes - latents)
        return Quantised(straight, self.encode(latents), latents, codes)

    def row_losses(self, quantised: Quantised) -> dict[str, Float[Array, " b"]]:
        """Returns the loss of each row alone, "commitment": there is no codebook to train."""
        return {"commitment": commitment_losses(quantised.latents, quantised.codes)}

    def between_rows(
        self, latents: Float[Array, "b n c"], mask: Bool[Array, " b"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """Returns "entropy", nats: see `losses.sign_entropy.sign_entropy`."""
        return {"entropy": sign_entropy(latents, mask)}


def check_bits(bits: int) -> None:
    """Checks the number of bits of a sign code.

    Raises:
        ValueError: it is not from 1 to `MAX_BITS`.
    """
    if not 1 <= bits <= MAX_BITS:
        raise UserError(f"expected sign codes of 1 to {MAX_BITS} bits, got {bits}")
