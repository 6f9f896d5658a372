"""The published size of UniTok."""

import dataclasses

from toklip_jax.models.unitok.config import UniTokConfig

UNITOK_LARGE = UniTokConfig()

SIZES = {
    "unitok_large": UNITOK_LARGE,
    # The first published weights, of February 2025; files don't tell them from the later ones.
    "unitok_large_causal": dataclasses.replace(UNITOK_LARGE, is_causal=True),
}
