"""taming-transformers' VQGAN (arXiv 2012.09841): the nearest code, of raw vectors."""

from toklip_jax.models.convolutional_vq import ConvolutionalVQ
from toklip_jax.models.taming.config import TamingConfig
from toklip_jax.nn.quantisers import Quantiser, VectorQuantiser


class TamingVQ(ConvolutionalVQ):
    """The nearest code by Euclidean distance; nothing is normalised."""

    config: TamingConfig

    def _build_quantiser(self) -> Quantiser:
        return VectorQuantiser(self.config.codebook_size, self.config.codebook_dim)
