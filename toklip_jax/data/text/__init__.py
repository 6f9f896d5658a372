"""Texts to token ids."""

from toklip_jax.data.text.cleaning import CLEANERS, canonicalize, clean_text
from toklip_jax.data.text.tokenizer import TOKENIZER_FILE, TextTokenizer, train_tokenizer

__all__ = [
    "CLEANERS",
    "TOKENIZER_FILE",
    "TextTokenizer",
    "canonicalize",
    "clean_text",
    "train_tokenizer",
]
