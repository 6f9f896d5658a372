"""The emoji demo: importing it registers its data sources and its evaluation."""

from toklip_jax.demo.evaluation import Emoji
from toklip_jax.demo.questions import QUESTIONS
from toklip_jax.demo.source import EMOJI, EmojiSource

__all__ = ["EMOJI", "QUESTIONS", "Emoji", "EmojiSource"]
