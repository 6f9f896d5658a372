"""Chameleon's VQ tokenizer (arXiv 2405.09818): the nearest code, of raw vectors."""

from toklip_jax.models.chameleon.config import ChameleonConfig
from toklip_jax.models.convolutional_vq import ConvolutionalVQ
from toklip_jax.nn.quantisers import Quantiser, VectorQuantiser


class ChameleonVQ(ConvolutionalVQ):
    """The nearest code by Euclidean distance; nothing is normalised."""

    config: ChameleonConfig

    def _build_quantiser(self) -> Quantiser:
        return VectorQuantiser(self.config.codebook_size, self.config.codebook_dim)
