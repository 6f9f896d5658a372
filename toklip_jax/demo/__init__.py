"""The emoji demo: importing it registers its data source and its evaluation, both "emoji"."""

from toklip_jax.demo.evaluation import Emoji
from toklip_jax.demo.source import EMOJI, EmojiSource

__all__ = ["EMOJI", "Emoji", "EmojiSource"]
