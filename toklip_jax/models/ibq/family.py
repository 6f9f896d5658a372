"""IBQ's tokenizer as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.convolutional_vq import vq_inputs
from toklip_jax.models.ibq.config import IBQConfig
from toklip_jax.models.ibq.keys import KEYS
from toklip_jax.models.ibq.model import IBQModel
from toklip_jax.models.ibq.releases import RELEASES
from toklip_jax.models.ibq.sizes import SIZES

IBQ = Family(
    name="ibq",
    title="IBQ's tokenizer",
    role="vq",
    config=IBQConfig,
    build=IBQModel,
    inputs=vq_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    download="IBQ: TencentARC/IBQ-Tokenizer-262144 on the Hugging Face hub",
)
