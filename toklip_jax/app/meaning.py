"""What ids mean: their picture, their features beside phrases, and what a single id looks like.

Whatever its arguments, each method computes arrays of the same shapes, so that nothing is compiled
after the first call.
"""

import base64
import functools
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from toklip_jax.app.models import Models
from toklip_jax.app.pictures import as_uri
from toklip_jax.core.errors import UserError

BATCH = 8  # pictures that are encoded together
MAX_PHRASES = 12
MAX_LETTERS = 200  # of a phrase
MAX_PREFIXES = 64  # numbers of ids for which there are features
ALTERNATIVES = 8  # ids whose codes are near
LOOKED_UP = 64  # images' worth of ids whose code vectors are looked up together


class Meaning:
    """What the tokenizer makes of ids; all of it is plain data, ready to be sent."""

    def __init__(self, models: Models):
        self.models = models
        self.phrase = functools.lru_cache(512)(self._phrase)
        self._vectors = functools.lru_cache(4)(self._code_vectors)

    @functools.cached_property
    def counts(self) -> list[int]:
        """Numbers of first ids that have features, the last of them all ids; [] without meaning."""
        toklip = self.models.meaning
        if toklip is None:
            return []
        n = self.models.ids_shape[0]
        if not toklip.config.vision.is_causal:
            return [n]
        steps = min(n, MAX_PREFIXES)
        return [round(n * (i + 1) / steps) for i in range(steps)]

    def encode(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        """Returns the ids and the feature of up to `BATCH` pictures, uint8 [h, w, 3]."""
        if not images:
            return []
        ids = np.asarray(self.models.tokenizer.tokenize(_filled(np.stack(images), BATCH)))
        toklip = self.models.meaning
        features = [None] * BATCH if toklip is None else toklip.image_features(ids=ids)
        return [
            {"ids": _nested(one), "image": as_uri(image), "feature": _packed(feature)}
            for one, image, feature in zip(ids, images, np.asarray(features), strict=False)
        ]

    def look(self, ids: Int[np.ndarray, "n *q"], phrases: list[str]) -> dict[str, Any]:
        """Returns the picture of ids, and beside phrases what they and their beginnings mean.

        `features` has a row for each of `counts`; `shares` and `cosines` too, a column for each
        phrase; `maps` has a row for each phrase, the cosine of every place.
        """
        image = self.models.tokenizer.detokenize(ids[None])[0]
        seen: dict[str, Any] = {"image": as_uri(np.asarray(image))}
        toklip = self.models.meaning
        if toklip is None:
            return seen
        features = self._prefixes(ids)
        seen["features"] = _packed(features)
        if not phrases:
            return seen
        places = np.asarray(toklip.token_features(ids[None])[0])
        texts = np.stack([self.phrase(phrase) for phrase in phrases])
        logits = np.asarray(toklip.similarity(features, _filled(texts, MAX_PHRASES)))
        shares = _softmax(logits[:, : len(phrases)])
        return seen | {
            "shares": shares.tolist(),
            "cosines": (features @ texts.T).tolist(),
            "maps": (texts @ places.T).tolist(),
        }

    def code(self, place: list[int], which: int) -> dict[str, Any]:
        """Returns what a place's ids look like alone, and those whose codes are nearest.

        Args:
            place: the ids of the place, one or several.
            which: the id that the others take the place of.
        """
        self._check_place(place, which)
        vectors = self._vectors(which, tuple(place[:which]), tuple(place[which + 1 :]))
        distances = np.linalg.norm(vectors - vectors[place[which]], axis=1)
        distances[place[which]] = np.inf
        near = np.argsort(distances, kind="stable")[: min(ALTERNATIVES, len(distances) - 1)]
        places = [place, *([*place[:which], int(i), *place[which + 1 :]] for i in near)]
        tiles = self._tiles(places)
        others = zip(near, distances[near], tiles[1:], strict=True)
        return {
            "tile": tiles[0],
            "near": [{"id": int(i), "distance": float(d), "tile": t} for i, d, t in others],
        }

    def warm_up(self) -> None:
        """Compiles all that is needed."""
        height, width = self.models.size
        self.encode([np.zeros((height, width, 3), np.uint8)])
        ids = self.models.some_ids(1)[0]
        self.look(ids, ["a"] if self.models.has_texts else [])
        self.code(_nested(ids)[0], 0)

    def _prefixes(self, ids) -> Float[np.ndarray, "k d"]:
        toklip = self.models.meaning
        if len(self.counts) == 1:
            return np.asarray(toklip.image_features(ids=ids[None]))
        return np.asarray(toklip.prefix_features(ids[None], self.counts)[0])

    def _phrase(self, phrase: str) -> Float[np.ndarray, " d"]:
        """A phrase's feature."""
        return np.asarray(self.models.meaning.text_features([phrase])[0])

    def _check_place(self, place, which):
        sizes = self.models.vq.codebook_sizes
        if len(place) != len(sizes) or not 0 <= which < len(place):
            raise UserError(f"expected {len(sizes)} ids of a place and one to change, got {place}")
        for one, size in zip(place, sizes, strict=True):
            if not 0 <= one < size:
                raise UserError(f"expected an id in [0, {size}), got {one}")

    def _code_vectors(self, which, before, after) -> Float[np.ndarray, "z c"]:
        """The code vectors of all ids at one place, where the others of the place are given."""
        size, (n, *_) = self.models.vq.codebook_sizes[which], self.models.ids_shape
        every = np.arange(size, dtype=np.int32)
        columns = [*(np.full(size, x) for x in before), every, *(np.full(size, x) for x in after)]
        rows, found = np.stack(columns, axis=1).astype(np.int32), []
        for start in range(0, size, n * LOOKED_UP):
            some = _filled(rows[start : start + n * LOOKED_UP], n * LOOKED_UP)
            vectors = self.models.tokenizer.code_vectors(self._images_of(some))
            found.append(np.asarray(vectors).reshape(n * LOOKED_UP, -1))
        return np.concatenate(found)[:size]

    def _tiles(self, places) -> list[str]:
        """The middle of the picture that has nothing but one place's ids, for each of them."""
        height, width = self.models.grid
        filled = _filled(np.asarray(places, np.int32), ALTERNATIVES + 1)
        ids = self._images_of(np.repeat(filled, height * width, axis=0))
        images = np.asarray(self.models.tokenizer.detokenize(ids))[: len(places)]
        tall, wide = images.shape[1] // height, images.shape[2] // width
        top, left = height // 2 * tall, width // 2 * wide
        return [as_uri(image[top : top + tall, left : left + wide]) for image in images]

    def _images_of(self, rows: Int[np.ndarray, "r q"]) -> Int[np.ndarray, "b n *q"]:
        """Places as ids of images."""
        return rows.reshape(-1, *self.models.ids_shape)


def read_ids(models: Models, ids: list[list[int]]) -> Int[np.ndarray, "n *q"]:
    """Returns an image's ids, which come as a list for each place.

    Raises:
        ValueError: another number of places, or of ids at one.
    """
    n, q = models.ids_shape[0], models.vq.codes_per_place
    if len(ids) != n or any(len(place) != q for place in ids):
        raise UserError(f"expected {n} places of {q} ids each, got {len(ids)} places or other ids")
    if not all(0 <= one < 2**31 for place in ids for one in place):
        raise UserError("expected ids that are whole numbers of the codebook, got others")
    return np.asarray(ids, np.int32).reshape(models.ids_shape)


def _nested(ids: Int[np.ndarray, "n *q"]) -> list[list[int]]:
    """An image's ids as a list for each place."""
    return np.asarray(ids).reshape(len(ids), -1).tolist()


def _filled(rows, count):
    """Rows, and copies of the last up to `count` of them."""
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


def _packed(array: Float[Array | np.ndarray, "*d"] | None) -> str | None:
    """Floats as base64 of little-endian float32."""
    if array is None:
        return None
    return base64.b64encode(np.asarray(array, "<f4").tobytes()).decode()


def _softmax(logits: Float[np.ndarray, "k t"]) -> Float[np.ndarray, "k t"]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
