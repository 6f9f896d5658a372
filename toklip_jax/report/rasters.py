"""Draws arrays as pictures: files beside the page, and data URIs within it."""

import base64
import io

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from toklip_jax.ops.pixels import to_unit_range

COLORS = 256
LOSSLESS = 128  # pixels: pictures up to this size are embedded as PNG, larger ones as WebP
QUALITY = 80
MIN_SIDE = 240  # pixels of a file beside the page: small pictures are enlarged
ERROR_MAP, SIMILARITY_MAP = "magma", "YlOrRd"
WARM = (0.25, 0.9)  # part of the similarity's colours in use
OPAQUE = 0.9  # of the most similar


def absolute_errors(
    originals: UInt8[np.ndarray, "b h w 3"], restored: Float[np.ndarray, "b h w 3"]
) -> Float[np.ndarray, "b h w"]:
    """Returns the mean absolute error over the channels, in steps of 255."""
    return np.abs(to_unit_range(originals) - restored).mean(axis=-1) * 127.5


def error_colors() -> UInt8[np.ndarray, "256 3"]:
    """Returns the colours of errors, from none to large."""
    return _colors(ERROR_MAP, 0, 1)


def similarity_colors() -> UInt8[np.ndarray, "256 4"]:
    """Returns the colours of similarity, laid over an image: from transparent to opaque."""
    alpha = np.round(255 * OPAQUE * np.linspace(0, 1, COLORS)).astype(np.uint8)
    return np.concatenate([_colors(SIMILARITY_MAP, *WARM), alpha[:, None]], axis=1)


def paint(
    values: Float[np.ndarray, "h w"], low: float, high: float, colors: UInt8[np.ndarray, "256 c"]
) -> UInt8[np.ndarray, "h w c"]:
    """Returns values as colours; those outside [low, high] take the colour at its end."""
    places = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return colors[np.round(places * (COLORS - 1)).astype(int)]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], colors: UInt8[np.ndarray, "a b 4"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the grey picture under coarser colours, as the page lays them over each other."""
    size = image.shape[1], image.shape[0]
    above = PIL.Image.fromarray(colors).resize(size, PIL.Image.Resampling.NEAREST)
    below = PIL.Image.fromarray(image).convert("L").convert("RGBA")
    return np.asarray(PIL.Image.alpha_composite(below, above).convert("RGB"))


def code_colors(vectors: Float[np.ndarray, "*b c"]) -> UInt8[np.ndarray, "*b 3"]:
    """Returns a pale colour a vector: like vectors have like colours, and dark text is legible.

    Hue is the angle, and saturation the length, in the plane of the two principal directions.
    """
    from matplotlib.colors import hsv_to_rgb

    flat = vectors.reshape(-1, vectors.shape[-1])
    centred = flat - flat.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    x, y = (centred @ axes[:, -2:]).T if axes.shape[1] > 1 else (centred[:, 0], centred[:, 0] * 0)
    radius = np.hypot(x, y)
    saturation = 0.08 + 0.4 * np.clip(radius / max(np.percentile(radius, 90), 1e-12), 0, 1)
    hue = np.arctan2(y, x) / (2 * np.pi) % 1
    rgb = hsv_to_rgb(np.stack([hue, saturation, np.full_like(hue, 0.95)], axis=-1))
    return np.round(255 * rgb).astype(np.uint8).reshape(*vectors.shape[:-1], 3)


def data_uri(image: UInt8[np.ndarray, "h w 3"], largest: int) -> str:
    """Returns a picture as a URI; above `largest` pixels shrunk, if large compressed with loss."""
    picture = PIL.Image.fromarray(image)
    picture.thumbnail((largest, largest), PIL.Image.Resampling.LANCZOS)
    is_small = max(picture.size) <= LOSSLESS
    buffer = io.BytesIO()
    if is_small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "WEBP", quality=QUALITY)
    kind = "png" if is_small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def save_png(image: UInt8[np.ndarray, "h w 3"], path) -> None:
    """Writes a picture; small ones are enlarged, each pixel to a square."""
    factor = max(1, -(-MIN_SIDE // max(image.shape[:2])))
    PIL.Image.fromarray(image.repeat(factor, 0).repeat(factor, 1)).save(path)


def _colors(name, start, stop):
    import matplotlib

    steps = np.linspace(start, stop, COLORS)
    return np.round(255 * matplotlib.colormaps[name](steps)[:, :3]).astype(np.uint8)
