"""Named sizes. Adding one is one line."""

from toklip_jax.models.config import TextConfig, VisionConfig
from toklip_jax.models.teacher import TeacherConfig
from toklip_jax.models.toklip import TokLIPConfig
from toklip_jax.models.vq import LlamaGenConfig

VQ_16 = LlamaGenConfig()
VQ_8 = LlamaGenConfig(multipliers=(1, 2, 2, 4))
VQ_TINY = LlamaGenConfig(512, channels=32, multipliers=(1, 1, 1, 1, 1), z_channels=32)

GEMMA_TEXT = TextConfig(1152, 27, 16, tokenizer="timm/ViT-SO400M-16-SigLIP2-256")
TINY_TEXT = TextConfig(64, 2, 4, vocab_size=512, context_length=16)


def so400m(image_size: int, is_causal: bool) -> VisionConfig:
    """SigLIP's shape-optimised tower of 400 M parameters, 16-pixel patches."""
    return VisionConfig(1152, 27, 16, is_causal=is_causal, image_size=image_size)


def tiny(is_causal: bool) -> VisionConfig:
    """A tower small enough for tests."""
    return VisionConfig(64, 3, 4, is_causal=is_causal, image_size=64)


VQ_SIZES = {"vq_16": VQ_16, "vq_8": VQ_8, "vq_tiny": VQ_TINY}

TOKLIP_SIZES = {
    "toklip_s_256": TokLIPConfig(VQ_16, so400m(256, True), GEMMA_TEXT),
    "toklip_l_384": TokLIPConfig(VQ_16, so400m(384, True), GEMMA_TEXT),
    "tiny": TokLIPConfig(VQ_TINY, tiny(True), TINY_TEXT),
}

TEACHER_SIZES = {
    "siglip2_so400m_256": TeacherConfig(so400m(256, False), GEMMA_TEXT),
    "siglip2_so400m_384": TeacherConfig(so400m(384, False), GEMMA_TEXT),
    "tiny": TeacherConfig(tiny(False), TINY_TEXT),
}


def named_size(name: str, sizes: dict):
    """Returns the config called `name`.

    Raises:
        ValueError: there is none; says which there are.
    """
    if name not in sizes:
        raise ValueError(f"expected a size of {sorted(sizes)}, got {name!r}")
    return sizes[name]
