"""Prompts of token ids that differ in length: checked, padded, and of few lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from toklip_jax.core.errors import UserError

SHORTEST = 16  # tokens that prompts and answers are padded to at least
PADDING = 0  # an id that is seen by nothing


def read_prompts(ids: Any, vocab_size: int) -> list[np.ndarray]:
    """Returns prompts as int32 arrays, one for each row.

    Args:
        ids: a list of lists of token ids, or an array [b, t] of integers.

    Raises:
        ValueError: no prompt, an empty one, ids that are no integers or not of the vocabulary.
    """
    is_array = hasattr(ids, "ndim")
    if (is_array and ids.ndim != 2) or not (is_array or isinstance(ids, Sequence)):
        raise UserError(f"expected {EXPECTED}, got {_shown(ids)}: pass [ids] for one prompt")
    prompts = [_prompt(row, vocab_size) for row in (np.asarray(ids) if is_array else ids)]
    if not prompts:
        raise UserError(f"expected {EXPECTED}, got none: pass at least one prompt")
    return prompts


def pad_left(prompts: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ids, positions), int32 [b, length] each; positions are -1 in the padding."""
    ids = np.full((len(prompts), length), PADDING, np.int32)
    positions = np.full(ids.shape, -1, np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt
        positions[row, length - len(prompt) :] = np.arange(len(prompt))
    return ids, positions


def pad_right(prompts: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Returns ids, int32 [b, length]; what stands before the padding doesn't see it."""
    ids = np.full((len(prompts), length), PADDING, np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    return ids


def padded_length(length: int) -> int:
    """Returns the length that this many tokens are padded to: 16, 32, 48, 64, 96, 128, 192, ...

    A power of two or one and a half of one, so that few programs are compiled and at most a third
    of a long prompt is padding.
    """
    step = max(SHORTEST, 1 << max((length - 1).bit_length() - 2, 0))
    return -(-length // step) * step


EXPECTED = "prompts as a list of lists of token ids, or as an array [b, t] of integers"


def _prompt(row, vocab_size):
    try:
        prompt = np.asarray(row)
    except ValueError:  # lists of several lengths
        prompt = np.empty(0, object)
    if prompt.ndim != 1 or (prompt.size and not np.issubdtype(prompt.dtype, np.integer)):
        raise UserError(f"expected {EXPECTED}, got {_shown(row)} for one of them")
    if not prompt.size:
        raise UserError("expected at least one token id in every prompt, got an empty one")
    if prompt.min() < 0 or prompt.max() >= vocab_size:
        raise UserError(
            f"expected token ids in [0, {vocab_size}), got {prompt.min()} to {prompt.max()}: they "
            f"come from another tokenizer"
        )
    return prompt.astype(np.int32)


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
