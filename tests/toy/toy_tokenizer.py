"""A tokenizer that the package doesn't know: two ids a place, a 3 x 2 grid, no codebook.

Five numbers a place are rounded to signs; the first two are one id, the last three the other.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.models.registry import Family, VQOutput, register

PATCH, BITS = 8, (2, 3)


@dataclasses.dataclass(frozen=True)
class SignConfig:
    width: int = 16

    codes_per_place = 2
    codebook_sizes = tuple(2**bits for bits in BITS)
    code_dim = sum(BITS)
    licence = ""
    smallest_size = (PATCH, PATCH)

    def grid_of(self, *size):
        if len(size) != 2 or any(side % PATCH or side < PATCH for side in size):
            raise UserError(f"expected image sides divisible by {PATCH}, got {size}")
        return size[0] // PATCH, size[1] // PATCH


class SignVQ(nn.Module):
    config: SignConfig
    compute: object

    def setup(self):
        self.embed = nn.Conv(self.config.width, (PATCH, PATCH), (PATCH, PATCH))
        self.down = nn.Dense(self.config.code_dim)
        self.up = nn.Dense(PATCH * PATCH * 3)

    def __call__(self, images):
        latents, grid = self._latents(images)
        vectors = self._straight_through(latents)
        losses = {"commitment": jnp.mean((latents - jnp.sign(vectors)) ** 2, axis=(1, 2))}
        return VQOutput(self._decode(vectors, grid), self._ids(latents), latents, losses)

    def tokenize(self, images):
        return self._ids(self._latents(images)[0])

    def encode(self, images):
        return self._straight_through(self._latents(images)[0])

    def code_vectors(self, ids):
        bits = [(ids[..., i, None] >> jnp.arange(count)) & 1 for i, count in enumerate(BITS)]
        return jnp.concatenate(bits, axis=-1).astype(jnp.float32) * 2 - 1

    def detokenize(self, ids, grid=None):
        return self._decode(self.code_vectors(ids), grid)

    def between_rows(self, latents, mask=None):
        return {}

    def _latents(self, images):
        grid = self.config.grid_of(*images.shape[1:3])
        x = self.down(jax.nn.silu(self.embed(images)))
        return x.reshape(len(x), -1, x.shape[-1]), grid

    def _straight_through(self, latents):
        signs = jnp.where(latents > 0, 1.0, -1.0)
        return latents + jax.lax.stop_gradient(signs - latents)

    def _ids(self, latents):
        bits = (latents > 0).astype(jnp.int32)
        low, high = bits[..., : BITS[0]], bits[..., BITS[0] :]
        return jnp.stack([_number(low), _number(high)], axis=-1)

    def _decode(self, vectors, grid):
        b, (h, w) = len(vectors), grid
        x = self.up(vectors).reshape(b, h, w, PATCH, PATCH, 3)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * PATCH, w * PATCH, 3)


def _number(bits):
    return jnp.sum(bits << jnp.arange(bits.shape[-1]), axis=-1).astype(jnp.int32)


def _inputs(config):
    return (jax.ShapeDtypeStruct((1, *config.smallest_size, 3), jnp.float32),)


SIGN = register(
    Family(
        name="toy_sign",
        title="a toy tokenizer of sign codes",
        role="vq",
        config=SignConfig,
        build=SignVQ,
        inputs=_inputs,
    )
)
