"""The published size of Emu3's vision tokenizer."""

from toklip_jax.models.emu3.config import Emu3Config

SIZES = {"emu3": Emu3Config()}
