"""A small byte-level tokenizer with the special tokens of language models."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from toklip_jax.data.conversations import FastTokenizer

SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<eos>")
TEXTS = ["What is in the image? A cat sits on the mat.", "USER: ASSISTANT: user assistant system"]


@pytest.fixture(scope="session")
def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


@pytest.fixture(scope="session")
def chat(byte_level):
    """One without a start token, as Qwen's."""
    return FastTokenizer(byte_level, "<pad>")
