"""SigLIP 2's named sizes."""

import dataclasses

from toklip_jax.models.siglip.config import TeacherConfig, TextConfig, VisionConfig

TOKENIZER = "timm/ViT-SO400M-16-SigLIP2-256"  # Gemma's, which all sizes share
GEMMA_TEXT = TextConfig(1152, 27, 16, tokenizer=TOKENIZER)
TINY_TEXT = TextConfig(64, 2, 4, vocab_size=512, context_length=16)


def so400m(image_size: int, is_causal: bool) -> VisionConfig:
    """Returns SigLIP's shape-optimised tower of 400 M parameters, with patches of 16 pixels."""
    return VisionConfig(1152, 27, 16, is_causal=is_causal, image_size=image_size)


def tiny(is_causal: bool) -> VisionConfig:
    """Returns a tower small enough for tests."""
    return VisionConfig(64, 3, 4, is_causal=is_causal, image_size=64)


BASE, LARGE = (768, 12, 12, 3072), (1024, 24, 16, 4096)  # width, depth, heads, mlp_dim
GIANT = (1536, 40, 16, 6144)

SIZES = {
    "siglip2_b16_256": TeacherConfig(VisionConfig(*BASE), TextConfig(*BASE, tokenizer=TOKENIZER)),
    "siglip2_l16_256": TeacherConfig(VisionConfig(*LARGE), TextConfig(*LARGE, tokenizer=TOKENIZER)),
    "siglip2_giant_256": TeacherConfig(
        VisionConfig(*GIANT), dataclasses.replace(GEMMA_TEXT, embed_dim=GIANT[0])
    ),
    "siglip2_so400m_256": TeacherConfig(so400m(256, False), GEMMA_TEXT),
    "siglip2_so400m_384": TeacherConfig(so400m(384, False), GEMMA_TEXT),
    "siglip2_so400m_512": TeacherConfig(so400m(512, False), GEMMA_TEXT),
    "tiny": TeacherConfig(tiny(False), TINY_TEXT),
}
