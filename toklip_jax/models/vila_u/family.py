"""VILA-U's tokenizer as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.convolutional_vq import vq_inputs
from toklip_jax.models.vila_u.config import VilaUConfig
from toklip_jax.models.vila_u.keys import KEYS
from toklip_jax.models.vila_u.model import VilaUVQ
from toklip_jax.models.vila_u.releases import RELEASES
from toklip_jax.models.vila_u.sizes import SIZES

VILA_U = Family(
    name="vila_u",
    title="VILA-U's tokenizer",
    role="vq",
    config=VilaUConfig,
    build=VilaUVQ,
    inputs=vq_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    embeddings=("patch_embed", "pos_embed"),
    download="VILA-U's is the file in vision_tower/ of mit-han-lab/vila-u-7b-256 at Hugging Face",
)
