"""LlamaGen's named sizes."""

from toklip_jax.models.llamagen.config import LlamaGenConfig

VQ_16 = LlamaGenConfig()
VQ_8 = LlamaGenConfig(multipliers=(1, 2, 2, 4))
VQ_TINY = LlamaGenConfig(512, channels=32, multipliers=(1, 1, 1, 1, 1), z_channels=32)

SIZES = {"vq_16": VQ_16, "vq_8": VQ_8, "vq_tiny": VQ_TINY}
