"""Sizes of FID's Inception v3."""

import dataclasses

from toklip_jax.core.errors import UserError

SMALLEST_IMAGE = 75  # below, no pixel is left at the last pool


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """Sizes; the defaults are the published weights'.

    Attributes:
        image_size: side that images are resized to.
        spatial_channels: channels of the spatial features; 7 in ADM's evaluator.
        divisor: divides all widths; above 1 for tests only.
        num_classes: of the classifier that the inception score reads; 0 without one, as weights
            have that were converted before it was read.
    """

    image_size: int = 299
    spatial_channels: int = 7
    divisor: int = 1
    num_classes: int = 0

    def __post_init__(self):
        if self.image_size < SMALLEST_IMAGE:
            raise UserError(
                f"expected an image_size of at least {SMALLEST_IMAGE}, got {self.image_size}"
            )
        if self.divisor not in (1, 2, 4, 8, 16):
            raise UserError(
                f"expected a divisor of all widths (1, 2, 4, 8, 16), got {self.divisor}"
            )

        if self.num_classes < 0:
            raise UserError(f"expected num_classes of at least 0, got {self.num_classes}")

    @property
    def pool_dim(self) -> int:
        return 2048 // self.divisor

    @property
    def spatial_dim(self) -> int:
        side = (((self.image_size - 3) // 2 - 1 - 2) // 2 - 2) // 2  # three strides up to mixed_6
        return ((side - 1) // 2) ** 2 * self.spatial_channels
