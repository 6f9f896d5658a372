"""Chameleon's VQ tokenizer as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.chameleon.config import ChameleonConfig
from toklip_jax.models.chameleon.keys import KEYS
from toklip_jax.models.chameleon.model import ChameleonVQ
from toklip_jax.models.chameleon.releases import RELEASES
from toklip_jax.models.chameleon.sizes import SIZES
from toklip_jax.models.convolutional_vq import vq_inputs

CHAMELEON = Family(
    name="chameleon",
    title="Chameleon's VQ tokenizer",
    role="vq",
    config=ChameleonConfig,
    build=ChameleonVQ,
    inputs=vq_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    download="Chameleon: facebook/chameleon-7b on the Hugging Face hub",
    image_size=512,
)
