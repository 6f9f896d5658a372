"""The published sizes of taming-transformers' VQGAN."""

from toklip_jax.models.taming.config import TamingConfig

F8 = {"multipliers": (1, 2, 2, 4), "attention_levels": (3,), "codebook_dim": 4, "z_channels": 4}

SIZES = {
    "taming_f16_1024": TamingConfig(1024),
    "taming_f16_16384": TamingConfig(16_384),
    "taming_f8_256": TamingConfig(256, **F8),
    "taming_f8_16384": TamingConfig(16_384, **F8),
}
