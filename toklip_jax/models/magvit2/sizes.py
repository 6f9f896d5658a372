"""The published sizes of Open-MAGVIT2's tokenizers.

"magvit2_f16_262144" is that of the files trained on ImageNet and on other images alike.
"""

from toklip_jax.models.magvit2.config import Magvit2Config

SIZES = {
    "magvit2_f16_262144": Magvit2Config(),
    "magvit2_f16_16384": Magvit2Config(z_channels=14),
    "magvit2_f8_262144": Magvit2Config(multipliers=(1, 2, 2, 4)),
}
