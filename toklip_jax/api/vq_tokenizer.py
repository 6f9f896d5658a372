"""A VQ tokenizer alone: images to ids, and ids to images."""

import math
import operator
import pathlib
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from toklip_jax.api.base import ImageModel, ids_text
from toklip_jax.api.inputs import Ids, Images
from toklip_jax.api.program import Method, map_chunks, run_method
from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES
from toklip_jax.models.base import VQConfig, sides_taken
from toklip_jax.models.registry import family_of
from toklip_jax.nn.config import Compute
from toklip_jax.weights import Weights
from toklip_jax.weights.quantised import place_model


class VQTokenizer(ImageModel):
    """A VQ tokenizer with its parameters.

    Results are JAX arrays. Images are those that `ImageModel` takes, of any size that has a grid
    unless `image_size` was given: then alone can they be Pillow images or paths. Videos, if the
    tokenizer takes them, are arrays [b, frames, h, w, 3], uint8 or float in [-1, 1]; where it takes
    images too, the number of axes tells which they are. Ids are integers [b, n], or [b, n, q] where
    a place has q ids. See `LoadedModel` for what the methods have in common.

    Attributes:
        image_size: (height, width) of the images, or (frames, height, width) of the videos, or None
            for any size.
    """

    def __init__(
        self,
        config: VQConfig,
        params: dict[str, Any],
        compute: Compute,
        image_size: int | tuple[int, ...] | None = None,
        batch_size: int | None = None,
        resize: str = DEFAULT_RESIZE,
    ):
        super().__init__(config, params, compute, batch_size)
        self._resize = check_name("resize", resize, RESIZES)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._grid = self.image_size and config.grid_of(*self.image_size)

    def tokenize(self, images: Any) -> Int[Array, "b n *q"]:
        """Returns ids, int32, row by row of the grid.

        Raises:
            ValueError: images of another shape, type or range, or of a size without a grid; videos
                if the tokenizer takes none.
        """
        return self._call("tokenize", images)

    def encode(self, images: Any) -> Float[Array, "b n c"]:
        """Returns code vectors, float32; gradients pass straight from them to the pixels."""
        return self._call("encode", images)

    def code_vectors(self, ids: Any) -> Float[Array, "b n c"]:
        """Returns the vectors that ids stand for, float32."""
        return self._call("code_vectors", ids)

    def detokenize(
        self, ids: Any, grid: tuple[int, ...] | None = None
    ) -> Float[Array, "b *size 3"]:
        """Returns images, RGB float32, clipped to [-1, 1].

        Args:
            grid: the ids' grid, (height, width), or (time, height, width) of a video; by default
                that of `image_size`, or an image's square.

        Raises:
            ValueError: ids of another shape, type or range, or of no square number without a grid;
                a grid of another number of sides than the tokenizer's.
        """
        grid = self._grid if grid is None else self._checked(grid)
        if grid is None and 2 not in sides_taken(self.config):
            raise UserError("expected grid=(time, height, width) with the ids of videos, got none")
        method = self._detokenize(grid)

        def function(chunk):
            return jnp.clip(run_method(self.model, self.params, chunk, method), -1, 1)

        ids = self._check(method, ids)
        return map_chunks(function, ids, method.inputs, self.batch_size, self._mesh)

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        *,
        dtype: str = "float32",
        param_dtype: str = "float32",
        mesh: Mesh | None = None,
        batch_size: int | None = None,
        image_size: int | tuple[int, ...] | None = None,
        resize: str = DEFAULT_RESIZE,
        tokenizer: str | pathlib.Path | None = None,
    ) -> "VQTokenizer":
        """Returns the tokenizer of weights in memory; arguments as `load`'s.

        Raises:
            ValueError: a text tokenizer was given.
        """
        family = family_of(weights.config)
        if tokenizer is not None:
            raise UserError(
                f"expected no tokenizer with the weights of {family.title}, got {tokenizer}: it "
                f"reads no texts"
            )
        compute = Compute(dtype=dtype, vq_dtype=dtype, is_scanned=weights.is_scanned)
        params = place_model(weights, family, param_dtype, mesh)
        return cls(weights.config, params, compute, image_size, batch_size, resize)

    def _sizes(self):
        size = [f"{' x '.join(map(str, self.image_size))} px"] if self.image_size else []
        places = math.prod(self._grid) if self._grid else None
        return [*size, ids_text(self.config, places), f"width {self.config.code_dim}"]

    def _methods(self):
        images = Images(self.config, self.image_size, self._resize)
        return {
            "tokenize": Method("tokenize", images),
            "encode": Method("encode", images),
            "code_vectors": Method("code_vectors", Ids.of(self.config, self._grid)),
            "detokenize": self._detokenize(self._grid),
        }

    def _checked(self, grid):
        counts = sides_taken(self.config)
        try:
            sides = tuple(operator.index(side) for side in grid)
        except TypeError:
            sides = ()
        if len(sides) not in counts or min(sides) < 1:
            shown = " or ".join(map(str, counts))
            raise UserError(f"expected a grid of {shown} whole numbers of at least 1, got {grid!r}")
        return sides

    def _detokenize(self, grid):
        return Method("detokenize", Ids.of(self.config, grid), options=(("grid", grid),))
