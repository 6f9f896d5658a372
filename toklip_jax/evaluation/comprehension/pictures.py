"""Images of questions: files, or bytes within a table, read as RGB arrays."""

import dataclasses
import functools
import hashlib
import os

import numpy as np
from jaxtyping import UInt8

from toklip_jax.core.errors import UserError
from toklip_jax.data.health import BadSample
from toklip_jax.data.images.decode import open_image
from toklip_jax.data.images.formats import to_8_bits
from toklip_jax.data.sources.records import read_image_bytes

MAX_PIXELS = 2**27  # MMMU has scans of posters
MIN_SIDE = 1


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image in a local file."""

    path: str

    def exists(self) -> bool:
        """Says whether there is such a file."""
        return os.path.isfile(self.path)

    def identity(self) -> list[str | int]:
        """Returns the file's name and size, whichever folder it is in."""
        return [os.path.basename(self.path), os.path.getsize(self.path)]

    def read(self) -> UInt8[np.ndarray, "h w c"]:
        """Returns the image, RGB in 0..255.

        Raises:
            ValueError: it is none, or too large.
        """
        return _decoded(self.path, lambda: read_image_bytes(self.path))


@dataclasses.dataclass(frozen=True)
class ImageBytes:
    """An encoded image, with the name of the place that it comes from."""

    data: bytes = dataclasses.field(repr=False)
    name: str

    def identity(self) -> str:
        """Returns the SHA-256 of the bytes."""
        return self._hash

    @functools.cached_property
    def _hash(self):
        return hashlib.sha256(self.data).hexdigest()

    def read(self) -> UInt8[np.ndarray, "h w c"]:
        """Returns the image, RGB in 0..255; raises as that of a file."""
        return _decoded(self.name, lambda: self.data)


def _decoded(name, read):
    try:
        image = open_image(read(), MIN_SIDE, MAX_PIXELS)
        return np.array(to_8_bits(image).convert("RGB"), np.uint8)  # [h, w, c]
    except BadSample as error:
        cause = error.cause
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsing meets
        cause = str(error)
    raise UserError(f"expected an image that can be read, got {name} ({cause}): replace the file")
