"""The published VQGANs of taming-transformers, which are not on the Hugging Face hub."""

from toklip_jax.models.releases import Release

LICENCE = "not stated"

RELEASES = (
    Release(
        "taming-f16-1024",
        "taming-transformers' VQGAN, 1,024 codes, ImageNet",
        LICENCE,
        page="https://heibox.uni-heidelberg.de/d/8088892a516d4e3baf92/",
    ),
    Release(
        "taming-f16-16384",
        "taming-transformers' VQGAN, 16,384 codes, ImageNet",
        LICENCE,
        page="https://heibox.uni-heidelberg.de/d/a7530b09fed84f80a887/",
    ),
)
