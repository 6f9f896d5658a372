"""IBQ (arXiv 2412.02692): the code of the greatest inner product, trained through all codes."""

from toklip_jax.models.convolutional_vq import ConvolutionalVQ
from toklip_jax.models.ibq.config import IBQConfig
from toklip_jax.nn.quantisers import InnerProductQuantiser, Quantiser


class IBQModel(ConvolutionalVQ):
    """The code of the greatest inner product; nothing is normalised."""

    config: IBQConfig

    def _build_quantiser(self) -> Quantiser:
        return InnerProductQuantiser(self.config.codebook_size, self.config.codebook_dim)
