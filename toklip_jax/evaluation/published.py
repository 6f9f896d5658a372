"""Figures that others published, to be read beside ours. In per cent, as printed."""

import dataclasses
from typing import Any, NamedTuple

from toklip_jax.models.registry import registered

SOURCES = "TokLIP: arXiv 2505.05422. SigLIP 2: arXiv 2502.14786."
ROLE = "toklip"  # of the models that have published figures


class Published(NamedTuple):
    """One model's figures, in per cent.

    Attributes:
        model: its name.
        image_size: the side in pixels.
        imagenet_top1: zero-shot, ImageNet-1k.
        coco_image_to_text_r1: retrieval on COCO's 5,000 test images.
        coco_text_to_image_r1: the same, the other way.
    """

    model: str
    image_size: int
    imagenet_top1: float
    coco_image_to_text_r1: float
    coco_text_to_image_r1: float


TOKLIP = (
    Published("TokLIP S", 256, 76.4, 64.06, 48.46),
    Published("TokLIP L", 384, 80.0, 68.00, 52.87),
    Published("TokLIP XL", 512, 80.8, 69.40, 53.77),
)
TEACHERS = (
    Published("SigLIP 2 So400m/16", 256, 83.4, 71.5, 55.4),
    Published("SigLIP 2 So400m/16", 384, 84.1, 71.2, 56.0),
    Published("SigLIP 2 So400m/16", 512, 84.3, 71.3, 56.0),
)


def published_like(config: Any) -> list[Published]:
    """Returns the figures of the published models of this size and of their teachers, if any.

    A model for images of another size than those of its kind that are published, or on another VQ
    tokenizer than the published one for these images, has the teacher's beside it only.

    Args:
        config: a TokLIP's config; whether its attention is causal does not matter.
    """
    published = {row.image_size for row in TOKLIP}
    families = [family for family in registered() if family.role == ROLE]
    named = [size for family in families for size in family.sizes.values()]
    alike = {size.vision.image_size for size in named if _is_alike(config, size)} & published
    if not alike:
        return []
    image_size = config.vision.image_size
    rows = (*(TOKLIP if image_size in alike else ()), *TEACHERS)
    return [row for row in rows if row.image_size == image_size]


def _is_alike(config, named):
    """Returns whether two models differ in image size and attention at most."""
    free = {"image_size": named.vision.image_size, "is_causal": named.vision.is_causal}
    return config.vq == named.vq and dataclasses.replace(config.vision, **free) == named.vision
