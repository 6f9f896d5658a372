"""The page's phrases: their features, and where they are, small enough for a page to compare."""

import base64
import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from toklip_jax.api import Tokenizer
from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.batches import map_batches

MAX_PHRASES = 4000
MAX_DIRECTIONS = 128  # with MAX_PHRASES and 1,024 tokens a picture, below 5 MB of base64
BATCH = 256
RANGE = (50, 99.5)  # percentiles of all similarities that the colours span


@dataclasses.dataclass(frozen=True)
class Phrases:
    """The page's vocabulary.

    Attributes:
        texts: each once; those asked for come first.
        features: normalised.
    """

    texts: list[str]
    features: Float[np.ndarray, "p d"]


@dataclasses.dataclass(frozen=True)
class TextMaps:
    """Phrases and tokens in one space; their dot product is the cosine.

    Attributes:
        phrases: the texts.
        text: their features.
        tokens: those of every image's tokens.
        kept: share of the tokens' features that the directions kept hold; 1 where all are.
        low, high: similarities that the first and the last colour stand for.
    """

    phrases: list[str]
    text: Float[np.ndarray, "p r"]
    tokens: Float[np.ndarray, "k n r"]
    kept: float
    low: float
    high: float

    def similarity(self, phrase: int) -> Float[np.ndarray, "k n"]:
        """Returns every token's cosine with a phrase."""
        return self.tokens @ self.text[phrase]

    def as_json(self) -> dict:
        """Returns what the page's script reads; features as base64 of little-endian float16."""
        return {
            "phrases": self.phrases,
            "directions": self.text.shape[1],
            "tokens": self.tokens.shape[1],
            "low": self.low,
            "high": self.high,
            "text_features": _base64(self.text),
            "token_features": _base64(self.tokens),
        }


def encode_phrases(toklip: Tokenizer, texts: Iterable[str]) -> Phrases:
    """Encodes texts, equal ones once, at most MAX_PHRASES of them.

    Raises:
        ValueError: the weights hold no text tokenizer, or there is no text.
    """
    texts = list(dict.fromkeys(text.strip() for text in texts if text.strip()))[:MAX_PHRASES]
    if not texts:
        raise UserError("there is no phrase: the source has no names and none was given")

    def encode(rows):
        return toklip.text_features([texts[row] for row in rows])

    return Phrases(texts, map_batches(encode, (np.arange(len(texts)),), BATCH))


def text_maps(phrases: Phrases, token_features: Float[np.ndarray, "k n d"]) -> TextMaps:
    """Returns the maps of `phrases` in images whose tokens' normalised features are given."""
    basis, kept = leading_directions(token_features.reshape(-1, token_features.shape[-1]))
    text, tokens = phrases.features @ basis, token_features @ basis
    low, high = np.percentile(tokens.reshape(-1, tokens.shape[-1]) @ text.T, RANGE)
    return TextMaps(phrases.texts, text, tokens, kept, float(low), float(high))


def leading_directions(
    features: Float[np.ndarray, "m d"], count: int = MAX_DIRECTIONS
) -> tuple[Float[np.ndarray, "d r"], float]:
    """Returns the `count` orthonormal directions that hold most of `features`, and what share."""
    width = features.shape[1]
    if width <= count:
        return np.eye(width, dtype=np.float32), 1.0
    features = features.astype(np.float64)
    values, vectors = np.linalg.eigh(features.T @ features)  # ascending
    share = values[-count:].sum() / values.sum()
    return vectors[:, -count:].astype(np.float32), float(share)


def _base64(values):
    return base64.b64encode(np.ascontiguousarray(values, "<f2").tobytes()).decode()
