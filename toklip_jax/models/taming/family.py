"""taming-transformers' VQGAN as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.convolutional_vq import vq_inputs
from toklip_jax.models.taming.config import TamingConfig
from toklip_jax.models.taming.keys import KEYS
from toklip_jax.models.taming.model import TamingVQ
from toklip_jax.models.taming.releases import RELEASES
from toklip_jax.models.taming.sizes import SIZES

TAMING = Family(
    name="taming",
    title="taming-transformers' VQGAN",
    role="vq",
    config=TamingConfig,
    build=TamingVQ,
    inputs=vq_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    download="VQGAN: the model zoo of github.com/CompVis/taming-transformers",
)
