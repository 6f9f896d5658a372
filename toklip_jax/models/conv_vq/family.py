"""The convolutional tokenizer with any quantiser as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.conv_vq.config import ConvVQConfig
from toklip_jax.models.conv_vq.model import ConvVQ
from toklip_jax.models.convolutional_vq import vq_inputs
from toklip_jax.nn.quantisers import QuantiserConfig

CONV_VQ = Family(
    name="conv_vq",
    title="the convolutional tokenizer with any quantiser",
    role="vq",
    config=ConvVQConfig,
    build=ConvVQ,
    inputs=vq_inputs,
    parts={"quantiser": QuantiserConfig},
)
