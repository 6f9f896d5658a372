"""The generator's named sizes: LlamaGen's."""

from toklip_jax.models.generator.config import GeneratorConfig, GPTConfig

# Width, depth and heads of LlamaGen's sizes.
TRANSFORMERS = {
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "xl": (1280, 36, 20),
    "xxl": (1536, 48, 24),
    "3b": (3200, 24, 32),
}
TINY = (64, 3, 4)
GRIDS = {256: (16, 16), 384: (24, 24)}
T5_XL = {"num_classes": 0, "caption_dim": 2048, "caption_length": 120}  # Flan-T5-XL's features

C2I = {
    f"gpt_{name}_{size}": GeneratorConfig(GPTConfig(*transformer, grid=grid))
    for name, transformer in TRANSFORMERS.items()
    for size, grid in GRIDS.items()
}
SIZES = {
    **C2I,
    "gpt_xl_t2i_256": GeneratorConfig(GPTConfig(*TRANSFORMERS["xl"], grid=(16, 16), **T5_XL)),
    "gpt_xl_t2i_512": GeneratorConfig(GPTConfig(*TRANSFORMERS["xl"], grid=(32, 32), **T5_XL)),
    "gpt_tiny": GeneratorConfig(
        GPTConfig(*TINY, grid=(4, 4), codebook_sizes=(512,), num_classes=10)
    ),
    "gpt_tiny_t2i": GeneratorConfig(
        GPTConfig(
            *TINY,
            grid=(4, 4),
            codebook_sizes=(512,),
            num_classes=0,
            caption_dim=48,
            caption_length=8,
        )
    ),
}
