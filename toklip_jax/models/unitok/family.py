"""UniTok as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.convolutional_vq import vq_inputs
from toklip_jax.models.unitok.config import UniTokConfig
from toklip_jax.models.unitok.keys import KEYS
from toklip_jax.models.unitok.model import UniTok
from toklip_jax.models.unitok.releases import RELEASES
from toklip_jax.models.unitok.sizes import SIZES

UNITOK = Family(
    name="unitok",
    title="UniTok",
    role="vq",
    config=UniTokConfig,
    build=UniTok,
    inputs=vq_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    download="UniTok's is the file in FoundationVision/unitok_tokenizer at Hugging Face",
)
