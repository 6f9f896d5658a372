"""Retrieval between two sets of features, in blocks: recall@k and the nearest keys.

Scores are dot products, float32 at highest precision: pass normalised features for the cosine.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources, features_of
from toklip_jax.evaluation.batches import map_batches
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs, text_space_outputs
from toklip_jax.metrics import AnyArray, Estimate, TopK, best_ranks

KS = (1, 5, 10)
MAX_SCORES = 2**23  # scores held at once: 32 MiB of float32


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluation):
    """R@1, 5 and 10, image to text and back.

    Attributes:
        source: images with captions. A kind with `texts()`, such as "karpathy", has several for
            each image; of any other kind each image has one, and equal captions count as one.
        reference_count: also give the PyTorch code's count, whose text-to-image R@5 and R@10 are
            too high, so that figures published from it can be compared (see `recall_at_k`).
    """

    source: ImageSource
    reference_count: bool = False

    about: ClassVar[str] = "Which text belongs to an image, and which image to a text."

    def sets(self) -> dict[str, ImageSource]:
        return {"test": self.source}

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        features = available_outputs(models, tuple(text_space_outputs()), "retrieval")
        if hasattr(sources["test"], "texts"):
            return {"test": features}
        return {"test": ("token_ids", "text", *features)}

    def texts(self, sources: Sources) -> dict[str, list[str]]:
        if not hasattr(sources["test"], "texts"):
            return {}
        return {"captions": [caption for image in sources["test"].texts() for caption in image]}

    def score(self, data: Encodings) -> Scores:
        rows = data.images["test"]
        captions, owners, labels = self._captions(rows, data.texts, data.sources["test"])
        to_text = positives_from_labels(labels, owners)
        to_image = positives_from_labels(owners, labels)
        table = []
        for model, features in features_of(rows):
            figures = {"model": model}
            figures |= recall_figures("image_to_text", recall_at_k(features, captions, to_text))
            ranks = retrieval_ranks(captions, features, to_image)
            counts = TopK.from_ranks(ranks, KS)
            figures |= recall_figures("text_to_image", counts)
            if self.reference_count and to_image.shape[1] == 1:
                counts = counts.replace(hits=reference_hits(ranks, KS))
                figures |= recall_figures("reference_text_to_image", counts)
            table.append(figures)
        return Scores(table)

    def _captions(self, rows, texts, source):
        """Features of the captions, the image that each belongs to, and the images' own labels."""
        if "captions" in texts:
            per_image = len(texts["captions"]) // len(source)
            owners = np.arange(len(texts["captions"])) // per_image
            is_there = np.isin(owners, rows["index"])  # an image may have been unreadable
            return texts["captions"][is_there], owners[is_there], rows["index"]
        _, labels = np.unique(rows["token_ids"], axis=0, return_inverse=True)
        labels = labels.reshape(-1)
        first = np.unique(labels, return_index=True)[1]
        return rows["text"][first], labels[first], labels


def recall_figures(direction: str, counts: TopK) -> dict[str, Estimate]:
    """Returns the recalls under "image_to_text_r1" and the like."""
    return {f"{direction}_r{k}": recall for k, recall in counts.compute().items()}


def recall_at_k(
    query_features: Float[AnyArray, "q d"],
    key_features: Float[AnyArray, "s d"],
    positives: Int[AnyArray, "q p"],
    ks: tuple[int, ...] = KS,
    *,
    reference_count: bool = False,
) -> TopK:
    """Counts the queries whose best-scored right key is among the first k.

    Equal scores rank by the lowest index. Memory is one block of queries by all keys, never the
    whole matrix.

    Args:
        query_features: features of the queries.
        key_features: features of the keys, which are ranked for each query.
        positives: the right keys of each query, padded with -1 (see `positives_from_labels`).
        ks: depths.
        reference_count: count as the PyTorch code's text-to-image counter does, to compare with
            figures published from it. It looks for values below k in the (row, column) pairs of all
            hits among the first max(ks), so that a hit in rows 0 to k-1 counts once more.

    Returns:
        Hits and number of queries; `.compute()` gives the recalls and their standard errors.

    Raises:
        ValueError: a query has no right key, an index is out of range, or `reference_count` is
            asked for queries with several right keys (the reference counts those correctly).
    """
    ranks = retrieval_ranks(query_features, key_features, positives)
    counts = TopK.from_ranks(ranks, ks)
    if not reference_count:
        return counts
    if positives.shape[1] != 1:
        raise UserError(
            f"expected one right key a query for reference_count, got up to {positives.shape[1]}: "
            "the reference miscounts only text to image; leave the flag out here"
        )
    return counts.replace(hits=reference_hits(ranks, ks))


def retrieval_ranks(
    query_features: Float[AnyArray, "q d"],
    key_features: Float[AnyArray, "s d"],
    positives: Int[AnyArray, "q p"],
) -> Int[np.ndarray, " q"]:
    """Returns the rank, from 0, of each query's best right key; arguments as `recall_at_k`."""
    positives = np.asarray(positives)
    _check_positives(positives, len(key_features))
    keys = jnp.asarray(key_features, jnp.float32)
    arrays = (np.asarray(query_features, np.float32), positives)
    return map_batches(functools.partial(_block_ranks, keys), arrays, _block_size(len(keys)))


def nearest_keys(
    query_features: Float[AnyArray, "q d"], key_features: Float[AnyArray, "s d"], k: int
) -> tuple[Int[np.ndarray, "q {k}"], Float[np.ndarray, "q {k}"]]:
    """Returns indices and scores of each query's k best keys, best first, ties by lowest index."""
    keys = jnp.asarray(key_features, jnp.float32)
    search = functools.partial(_block_top_k, keys, k=k)
    return map_batches(search, (np.asarray(query_features, np.float32),), _block_size(len(keys)))


def positives_from_labels(
    query_labels: Int[np.ndarray, " q"], key_labels: Int[np.ndarray, " s"]
) -> Int[np.ndarray, "q p"]:
    """Returns, for each query, the indices of the keys with its label, padded with -1.

    Several captions of an image, or several images of a name, are labels that occur several times.
    """
    order = np.argsort(key_labels, kind="stable")
    start = np.searchsorted(key_labels[order], query_labels, side="left")
    stop = np.searchsorted(key_labels[order], query_labels, side="right")
    offsets = np.arange(max(1, int(np.max(stop - start))))
    places = start[:, None] + offsets  # [q, p]
    found = order[np.minimum(places, len(order) - 1)]
    return np.where(places < stop[:, None], found, -1)


def reference_hits(ranks: Int[np.ndarray, " q"], ks: tuple[int, ...]) -> Int[np.ndarray, " k"]:
    """Returns hits as the PyTorch code counts them; see `recall_at_k`."""
    is_found = ranks < max(ks)
    hits = [np.count_nonzero(ranks < k) + np.count_nonzero(is_found[:k]) for k in ks]
    return np.array(hits, np.int64)


@jax.jit
def _block_ranks(keys: Float[Array, "s d"], queries, positives):
    return best_ranks(_scores(queries, keys), positives)


@functools.partial(jax.jit, static_argnames="k")
def _block_top_k(keys, queries, *, k):
    scores, indices = jax.lax.top_k(_scores(queries, keys), k)
    return indices, scores


def _scores(queries, keys):
    return jnp.matmul(queries, keys.T, precision=jax.lax.Precision.HIGHEST)


def _block_size(num_keys):
    return max(1, MAX_SCORES // num_keys)


def _check_positives(positives, num_keys):
    without = np.flatnonzero(np.all(positives < 0, axis=1))
    if len(without):
        raise UserError(
            f"expected at least one right key for every query, got none for {len(without)} of "
            f"{len(positives)} (the first is query {without[0]}): leave those queries out"
        )
    if positives.max() >= num_keys:
        raise UserError(
            f"expected positives below {num_keys}, the number of keys, got {positives.max()}"
        )
