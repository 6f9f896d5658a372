"""Sizes of TokLIP."""

import dataclasses

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import VQConfig
from toklip_jax.models.siglip.config import TextConfig, VisionConfig


@dataclasses.dataclass(frozen=True)
class TokLIPConfig:
    """Sizes of the three parts.

    Attributes:
        has_logit_bias: released files carry one; the released recipe trains without.
    """

    vq: VQConfig
    vision: VisionConfig
    text: TextConfig
    has_logit_bias: bool = True

    def __post_init__(self):
        grid = self.vq.grid_of(*self.vision.size)
        if self.vision.grid != grid:
            raise UserError(
                f"expected a patch_size that gives the VQ tokenizer's grid {grid} for images of "
                f"{self.vision.size}, got patch_size {self.vision.patch_size} and the grid "
                f"{self.vision.grid}"
            )
