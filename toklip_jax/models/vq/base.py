"""What every VQ tokenizer offers; all that the rest of the package knows of one."""

from typing import Protocol, runtime_checkable

import flax.linen as nn
import flax.struct
import jax

from toklip_jax.models.config import Compute


@runtime_checkable
class VQConfig(Protocol):
    """The frozen config of a VQ tokenizer.

    `build` returns a Linen module with these methods, all for square or rectangular images whose
    sides `downsample` divides; ids are in row-major order:

        tokenize(images [b, h, w, 3] in [-1, 1]) -> ids int32 [b, n]
        code_vectors(ids [b, n]) -> float32 [b, n, code_dim], what a token encoder sees
        detokenize(ids [b, n], grid=None) -> images float32 [b, h, w, 3], square unless grid=(h, w)
        __call__(images) -> VQOutput, the differentiable path its training uses
    """

    @property
    def downsample(self) -> int: ...

    @property
    def codebook_size(self) -> int: ...

    @property
    def code_dim(self) -> int: ...

    def build(self, compute: Compute) -> nn.Module: ...


@flax.struct.dataclass
class VQOutput:
    """One pass through a VQ tokenizer, as its training sees it.

    Attributes:
        images: reconstructions [b, h, w, 3], through the straight-through estimator.
        ids: int32 [b, n].
        latents: what was quantised, float32 [b, n, c], normalised where the search normalises.
        code_vectors: the codes chosen, float32 [b, n, c]; gradients reach the codebook.
        codebook: all codes as searched, float32 [z, c].
    """

    images: jax.Array
    ids: jax.Array
    latents: jax.Array
    code_vectors: jax.Array
    codebook: jax.Array
