"""Residual quantisation: several ids a place, each of the code nearest to what is still left."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.losses.quantisation import codebook_losses, commitment_losses
from toklip_jax.nn.quantisers.base import Quantised, Quantiser
from toklip_jax.nn.quantisers.codebook import (
    check_ids_a_place,
    init_codebook,
    rows_of,
    search_codes,
)


class ResidualQuantiser(Quantiser):
    """Nearest codes of a latent and then of each remainder (RQ-VAE, arXiv 2203.01941, section 3.1).

    A place's vector is the sum of its codes. Distances are Euclidean and nothing is normalised.

    Files of RQ-VAE and its descendants keep one more row after the codes of each codebook, for
    padding. With `has_padding_row` it is part of the parameters, so that such files convert both
    ways, but no search and no lookup reaches it.

    Attributes:
        codebook_size: number of codes in a codebook.
        codebook_dim: length of a code vector.
        depth: number of codes at a place, at least 2.
        is_shared: whether all depths have the same codebook.
        has_padding_row: whether a codebook's parameter has a row after its codes. There is then one
            parameter for each codebook (`padded_codebook_{i}`); otherwise `codebook` is one array,
            [z, c] if shared, else [q, z, c].
    """

    codebook_size: int
    codebook_dim: int
    depth: int
    is_shared: bool = True
    has_padding_row: bool = False

    def setup(self):
        if self.depth < 2:
            raise UserError(
                f"expected a depth of at least 2 for a residual quantiser, got {self.depth}: one "
                f"code a place is a VectorQuantiser's"
            )
        shape = (self.codebook_size, self.codebook_dim)
        count = 1 if self.is_shared else self.depth
        if self.has_padding_row:
            self.padded = [
                self.param(f"padded_codebook_{i}", _init_padded, shape) for i in range(count)
            ]
        else:
            shape = shape if self.is_shared else (count, *shape)
            self.codebook = self.param("codebook", init_codebook, shape)

    def encode(self, latents: Float[Array, "b n c"]) -> Int[Array, "b n q"]:
        """Returns the ids of the codes chosen at each depth, int32; no gradient passes."""
        return self._search(self.normalise(latents))

    def lookup(self, ids: Int[Array, "b n q"]) -> Float[Array, "b n c"]:
        """Returns the sums of the codes, float32; NaN where an id is outside the codebook.

        Raises:
            ValueError: the number of ids at a place differs from the depth.
        """
        return functools.reduce(jnp.add, self._rows(ids))

    def train(self, latents: Float[Array, "b n c"]) -> Quantised:
        """Returns the sums through the straight-through estimator, and what losses need."""
        latents = self.normalise(latents)
        ids = self._search(latents)
        codes = self.lookup(ids)
        straight = latents + jax.lax.stop_gradient(codes - latents)
        return Quantised(straight, ids, latents, codes)

    def compared(
        self, latents: Float[Array, "b n c"], ids: Int[Array, "b n q"]
    ) -> Float[Array, "k m c"]:
        """Returns what was left at each depth, float32; of all depths together if they share."""
        left, remainders = self.normalise(latents), []
        for codes in self._rows(ids):
            remainders.append(left)
            left = left - codes
        count = 1 if self.is_shared else self.depth
        return jnp.stack(remainders).reshape(count, -1, latents.shape[-1])

    def row_losses(self, quantised: Quantised) -> dict[str, Float[Array, " b"]]:
        """Returns "codebook" and "commitment", each the mean over depths of |sum - latent|^2.

        At each depth the sum is that of the codes so far (RQ-VAE, section 3.1; the paper adds the
        depths up, its code and VILA-U's average them). The published models move each code to the
        mean of the remainders that chose it, by moving averages. "codebook" is the same as a
        gradient: at each depth only the last code of the sum has one, towards its remainder.
        """
        latents = quantised.latents
        total, codebook, commitment = jnp.zeros_like(latents), [], []
        for codes in self._rows(quantised.ids):
            total = jax.lax.stop_gradient(total) + codes
            codebook.append(codebook_losses(latents, total))
            commitment.append(commitment_losses(latents, total))
        return {
            "codebook": sum(codebook) / self.depth,
            "commitment": sum(commitment) / self.depth,
        }

    def _search(self, latents):
        """The ids of float32 latents, one search at each depth."""
        left, ids = jax.lax.stop_gradient(latents), []
        for codes in jax.lax.stop_gradient(self._codebooks()):
            ids.append(search_codes(left, codes))
            left = left - self.normalise(rows_of(codes, ids[-1]))
        return jnp.stack(ids, axis=-1)  # [b, n, q]

    def _rows(self, ids):
        """The codes of each depth, float32 [b, n, c]."""
        check_ids_a_place(ids, self.depth)
        return [
            self.normalise(rows_of(codes, ids[..., i])) for i, codes in enumerate(self._codebooks())
        ]

    def _codebooks(self):
        """The codes [z, c] that each depth searches."""
        if self.has_padding_row:
            books = [padded[: self.codebook_size] for padded in self.padded]
        else:
            books = [self.codebook] if self.is_shared else list(self.codebook)
        return books * self.depth if self.is_shared else books


def _init_padded(key, shape):
    """Fresh codes, and a padding row of zeros."""
    return jnp.pad(init_codebook(key, shape), ((0, 1), (0, 0)))
