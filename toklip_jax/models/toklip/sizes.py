"""TokLIP's named sizes."""

from toklip_jax.models.ibq.sizes import IBQ_262144
from toklip_jax.models.llamagen.sizes import VQ_16, VQ_TINY
from toklip_jax.models.siglip.sizes import GEMMA_TEXT, TINY_TEXT, so400m, tiny
from toklip_jax.models.toklip.config import TokLIPConfig

SIZES = {
    "toklip_s_256": TokLIPConfig(VQ_16, so400m(256, True), GEMMA_TEXT),
    "toklip_l_384": TokLIPConfig(VQ_16, so400m(384, True), GEMMA_TEXT),
    "toklip_xl_512": TokLIPConfig(IBQ_262144, so400m(512, True), GEMMA_TEXT),
    "tiny": TokLIPConfig(VQ_TINY, tiny(True), TINY_TEXT),
}
