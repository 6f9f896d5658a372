"""Random shifts and scalings, cheap enough for small images at a training step's pace."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float32, UInt8

from toklip_jax.core.errors import UserError
from toklip_jax.data.transforms import Sample


@dataclasses.dataclass(frozen=True)
class ShiftAndScale:
    """Moves and scales `images` bilinearly; what comes in from outside is white.

    Attributes:
        max_shift: the largest shift in pixels, in each direction.
        max_scale: factors are log-uniform in [1 / max_scale, max_scale].
    """

    max_shift: float = 3.0
    max_scale: float = 1.15

    def __post_init__(self):
        if not (0 <= self.max_shift < math.inf and 1 <= self.max_scale < math.inf):
            raise UserError(
                f"expected max_shift of at least 0 and max_scale of at least 1, got {self}"
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        scale = math.exp(rng.uniform(-1, 1) * math.log(self.max_scale))
        down, right = rng.uniform(-self.max_shift, self.max_shift, 2)
        return sample | {"images": shift_and_scale(sample["images"], scale, down, right)}


def shift_and_scale(
    image: UInt8[np.ndarray, "h w 3"], scale: float, down: float, right: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image scaled about its centre, then moved by `down` and `right` pixels.

    Bilinear sampling is separable: two small matrix products, of ink (255 - value), so that
    weights which fall outside count as white.
    """
    height, width, _ = image.shape
    rows, columns = _taps(height, scale, down), _taps(width, scale, right)
    ink = (255 - image).reshape(height, -1).astype(np.float32)  # [h, w * c]
    ink = columns @ (rows @ ink).reshape(height, width, 3)  # [h, w, c]
    return 255 - np.rint(ink).astype(np.uint8)


def _taps(size: int, scale: float, shift: float) -> Float32[np.ndarray, "out size"]:
    """Returns the bilinear weights of the input's pixels in every output pixel."""
    pixels = np.arange(size, dtype=np.float32)
    middle = (size - 1) / 2
    sources = (pixels - middle - shift) / scale + middle
    return np.maximum(0, 1 - np.abs(sources[:, None] - pixels)).astype(np.float32)
