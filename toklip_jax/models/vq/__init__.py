"""VQ tokenizers: images to ids and back. Each stands in a file of its own, behind one interface."""

from toklip_jax.models.vq.base import VQConfig, VQOutput
from toklip_jax.models.vq.llamagen import LlamaGenConfig

VQ_KINDS = {"llamagen": LlamaGenConfig}

__all__ = ["VQ_KINDS", "LlamaGenConfig", "VQConfig", "VQOutput"]
