"""The methods that VQ tokenizers have in common: all but the encoder, quantiser and decoder."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import VQOutput
from toklip_jax.nn.config import Compute
from toklip_jax.ops.grids import square_grid
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class VQModel(nn.Module):
    """The base of VQ tokenizers. Interface: `models.base.VQConfig`.

    A family's module sets `self.quantiser` (`nn.quantisers.Quantiser`) in `setup`, and defines
    `_encode` and `_decode`. One with batch statistics overrides `_latents_in_training` and
    `_decode_in_training` as well.
    """

    config: Any
    compute: Compute

    def __call__(self, images: Float[Array, "b *size 3"]) -> VQOutput:
        """Reconstructs through the quantiser; decoder gradients pass straight to the encoder."""
        latents, grid = self._latents_in_training(images)
        quantised = self.quantiser.train(latents)
        restored = self._decode_in_training(quantised.vectors, grid)
        losses = self.quantiser.row_losses(quantised)
        return VQOutput(restored, quantised.ids, quantised.latents, losses)

    def tokenize(self, images: Float[Array, "b *size 3"]) -> Int[Array, "b n *q"]:
        """Returns the ids of each place of the grid, row by row, int32."""
        return self.quantiser.encode(self._latents(images)[0])

    def encode(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b n c"]:
        """Returns the images' code vectors, float32; gradients pass straight to the encoder."""
        return self.quantiser.train(self._latents(images)[0]).vectors

    def latents(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b n c"]:
        """Returns what the search compares with the codes, float32."""
        return self.quantiser.normalise(self._latents(images)[0])

    def code_vectors(self, ids: Int[Array, "b n *q"]) -> Float[Array, "b n c"]:
        """Returns the vectors that ids stand for, float32, as the quantiser hands them on."""
        return self.quantiser.lookup(ids)

    def detokenize(
        self, ids: Int[Array, "b n *q"], grid: tuple[int, ...] | None = None
    ) -> Float[Array, "b *size 3"]:
        """Returns images, float32, nominally in [-1, 1]; of a square grid unless told.

        Raises:
            ValueError: n is not a square number and no grid was given.
        """
        return self._decode(self.code_vectors(ids), grid or square_grid(ids.shape[1]))

    def between_rows(
        self, latents: Float[Array, "b n c"], mask: Bool[Array, " b"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """Returns the losses that compare rows: see `nn.quantisers.Quantiser`."""
        return self.quantiser.between_rows(latents, mask)

    def compared(
        self, latents: Float[Array, "b n c"], ids: Int[Array, "b n *q"]
    ) -> Float[Array, "q m e"]:
        """Returns the vectors that codes were compared with: see `nn.quantisers.Quantiser`."""
        return self.quantiser.compared(latents, ids)

    def _latents(
        self, images: Float[Array, "b *size 3"], **options: Any
    ) -> tuple[Float[Array, "b n c"], tuple[int, ...]]:
        """Returns the latents before the quantiser, and the grid.

        Args:
            options: those of the family's own `_encode`.
        """
        grid = self.config.grid_of(*images.shape[1:-1])
        images = constrain(images, BATCH_AXES, *(None,) * (images.ndim - 1))
        # Accelerators round float32 products to bfloat16 by default, which would change ids.
        precision = "highest" if self.compute.vq_dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            x = self._encode(images, **options)
        return x.reshape(x.shape[0], -1, x.shape[-1]), grid  # [b, n, c]

    def _encode(self, images: Float[Array, "b *size 3"]) -> Float[Array, "b *grid c"]:
        """Returns the latents before the quantiser, row by row of the grid; n may stand for it."""
        raise NotImplementedError

    def _decode(
        self, code_vectors: Float[Array, "b n c"], grid: tuple[int, ...]
    ) -> Float[Array, "b *size 3"]:
        """Returns the images of code vectors, float32."""
        raise NotImplementedError

    def _latents_in_training(self, images):
        """Returns `_latents`; a tokenizer with batch statistics takes those of this batch."""
        return self._latents(images)

    def _decode_in_training(self, code_vectors, grid):
        """Returns `_decode`; a tokenizer with batch statistics takes those of this batch."""
        return self._decode(code_vectors, grid)

    def _without_decoder(self, b: int, size: Sequence[int]) -> Float[Array, "b *size 3"]:
        """Stands in for `_decode` where the weights have no decoder: zeros in initialisation.

        Args:
            size: (height, width) of the images that a decoder would give.

        Raises:
            ValueError: something is really to be decoded.
        """
        if self.is_initializing():
            return jnp.zeros((b, *size, 3))
        raise UserError(
            "expected weights with a decoder, got an encoder's alone: images can be tokenized, but "
            "ids can't be decoded; take the file of the whole tokenizer"
        )
