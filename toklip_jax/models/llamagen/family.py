"""LlamaGen's VQ tokenizers as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.convolutional_vq import vq_inputs
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.llamagen.keys import KEYS
from toklip_jax.models.llamagen.model import LlamaGenVQ
from toklip_jax.models.llamagen.releases import RELEASES
from toklip_jax.models.llamagen.sizes import SIZES

LLAMAGEN = Family(
    name="llamagen",
    title="LlamaGen's VQ tokenizer",
    role="vq",
    config=LlamaGenConfig,
    build=LlamaGenVQ,
    inputs=vq_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    download="LlamaGen's VQ-16: peizesun/llamagen_t2i on the Hugging Face hub, vq_ds16_t2i.pt",
)
