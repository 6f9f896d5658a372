"""A convolutional tokenizer with any quantiser: what differs between two is the quantiser alone."""

from toklip_jax.models.conv_vq.config import ConvVQConfig
from toklip_jax.models.convolutional_vq import ConvolutionalVQ
from toklip_jax.nn.quantisers import Quantiser


class ConvVQ(ConvolutionalVQ):
    """VQGAN's encoder and decoder around the quantiser that the config names."""

    config: ConvVQConfig

    def _build_quantiser(self) -> Quantiser:
        return self.config.quantiser.build()
