"""Texts to token ids."""

from toklip_jax.data.text.cleaning import CLEANERS, canonicalize, clean_text
from toklip_jax.data.text.tokenizer import (
    PAD,
    TOKENIZER_FILE,
    TextTokenizer,
    read_tokenizer,
    train_tokenizer,
)

__all__ = [
    "CLEANERS",
    "PAD",
    "TOKENIZER_FILE",
    "TextTokenizer",
    "canonicalize",
    "clean_text",
    "read_tokenizer",
    "train_tokenizer",
]
