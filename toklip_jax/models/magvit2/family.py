"""Open-MAGVIT2's tokenizers as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.convolutional_vq import vq_inputs
from toklip_jax.models.magvit2.config import Magvit2Config
from toklip_jax.models.magvit2.keys import KEYS
from toklip_jax.models.magvit2.model import Magvit2VQ
from toklip_jax.models.magvit2.releases import RELEASES
from toklip_jax.models.magvit2.sizes import SIZES

HUB = "https://huggingface.co/TencentARC/Open-MAGVIT2-Tokenizer"
FILE = "imagenet_256_L.ckpt"

MAGVIT2 = Family(
    name="magvit2",
    title="Open-MAGVIT2's tokenizer",
    role="vq",
    config=Magvit2Config,
    build=Magvit2VQ,
    inputs=vq_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    download=f"fetch {FILE} from {HUB}-256-resolution and run `python -m toklip_jax.convert to-jax "
    f"{FILE} magvit2`",
)
