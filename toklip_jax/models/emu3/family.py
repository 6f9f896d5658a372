"""Emu3's vision tokenizer as a family of models."""

from toklip_jax.models.base import Family
from toklip_jax.models.convolutional_vq import vq_inputs
from toklip_jax.models.emu3.config import Emu3Config
from toklip_jax.models.emu3.keys import KEYS
from toklip_jax.models.emu3.model import Emu3VQ
from toklip_jax.models.emu3.releases import RELEASES
from toklip_jax.models.emu3.sizes import SIZES

HUB = "BAAI/Emu3-VisionTokenizer"

EMU3 = Family(
    name="emu3",
    title="Emu3's vision tokenizer",
    role="vq",
    config=Emu3Config,
    build=Emu3VQ,
    inputs=vq_inputs,
    sizes=SIZES,
    keys=KEYS,
    releases=RELEASES,
    full_precision=(r".*/(mean|var)",),  # running statistics
    download=f"for Emu3's, fetch {HUB} from huggingface.co and run `python -m toklip_jax.convert "
    f"to-jax DIRECTORY emu3`",
    image_size=512,
)
