"""The published size of Chameleon's VQ tokenizer."""

from toklip_jax.models.chameleon.config import ChameleonConfig

SIZES = {"chameleon": ChameleonConfig()}
