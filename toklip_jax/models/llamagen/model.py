"""LlamaGen's VQ-16 and VQ-8 (arXiv 2406.06525): convolutional, with an L2-normalised codebook."""

from toklip_jax.models.convolutional_vq import ConvolutionalVQ
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.nn.quantisers import Quantiser, VectorQuantiser


class LlamaGenVQ(ConvolutionalVQ):
    """The nearest code by Euclidean distance, of vectors at unit length in released weights."""

    config: LlamaGenConfig

    def _build_quantiser(self) -> Quantiser:
        config = self.config
        return VectorQuantiser(config.codebook_size, config.codebook_dim, config.is_l2_normalised)
