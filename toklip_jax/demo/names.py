"""The demo's result table: names and groups of pictures, by models and without any."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from toklip_jax.demo.baselines import chance_recall, neighbour_scores, pixel_features
from toklip_jax.demo.emoji import EmojiSplit
from toklip_jax.evaluation.retrieval import positives_from_labels, recall_at_k, recall_figures
from toklip_jax.evaluation.tables import Cell
from toklip_jax.evaluation.zeroshot import classify
from toklip_jax.metrics import AnyArray, Estimate, TopK, best_ranks

KS = (1, 5)
GROUP = "group_top1"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures and what they show.

    Attributes:
        images: uint8, or float in [-1, 1].
        name_ids: index into the task's names.
        group_ids: index into the task's groups.
    """

    images: UInt8[np.ndarray, "b h w 3"] | Float[np.ndarray, "b h w 3"]
    name_ids: Int[np.ndarray, " b"]
    group_ids: Int[np.ndarray, " b"]

    def where(self, mask: Bool[np.ndarray, " b"]) -> "Pictures":
        """Returns the pictures whose `mask` is True."""
        return Pictures(self.images[mask], self.name_ids[mask], self.group_ids[mask])


@dataclasses.dataclass(frozen=True)
class EmojiTask:
    """Pictures to be named, and the names.

    Attributes:
        names: every name that occurs in the held-out style.
        groups: names of the groups.
        is_unseen: per name, whether no picture of it was trained on, in any style.
        held_out: pictures of the held-out style.
        references: pictures of the other styles, of unseen names too; pixel neighbours are searched
            in all of them.
    """

    names: Sequence[str]
    groups: Sequence[str]
    is_unseen: Bool[np.ndarray, " n"]
    held_out: Pictures
    references: Pictures


def emoji_task(split: EmojiSplit) -> EmojiTask:
    """Returns the task of a split."""

    def pictures(part):
        return Pictures(part.images, split.name_ids(part), part.group_ids)

    test, references = pictures(split.test), pictures(split.references)
    return EmojiTask(split.names, split.test.groups, split.is_unseen, test, references)


def emoji_rows(
    features: Mapping[str, Float[AnyArray, "b d"]],
    names: Float[np.ndarray, "n d"],
    groups: Float[np.ndarray, "d c"],
    task: EmojiTask,
) -> list[dict[str, Cell]]:
    """Returns the rows of the models in the result table.

    Args:
        features: model to normalised features of the held-out pictures.
        names: features of the task's names, normalised.
        groups: a column per group (see `zeroshot.prompt_means`).
        task: pictures, names and groups.
    """
    return [
        {"model": model}
        | name_recalls(np.asarray(rows), names, task)
        | group_hits(classify(rows, groups), task)
        for model, rows in features.items()
    ]


def name_recalls(
    image_features: Float[np.ndarray, "b d"],
    name_features: Float[np.ndarray, "n d"],
    task: EmojiTask,
) -> dict[str, Cell]:
    """Returns R@1 and R@5, image to text and back, of the seen names and of the unseen."""
    cells = {}
    for prefix, is_included in _name_sets(task):
        pictures = is_included[task.held_out.name_ids]
        images, texts = image_features[pictures], name_features[is_included]
        image_labels, text_labels = task.held_out.name_ids[pictures], np.flatnonzero(is_included)
        to_text = recall_at_k(images, texts, positives_from_labels(image_labels, text_labels), KS)
        to_image = recall_at_k(texts, images, positives_from_labels(text_labels, image_labels), KS)
        cells |= _recall_cells(prefix, to_text, to_image)
    return cells


def group_hits(logits: Float[AnyArray, "b c"], task: EmojiTask) -> dict[str, Cell]:
    """Returns how often the right group comes first, for pictures of seen and of unseen names."""
    cells = {}
    for prefix, is_included in _name_sets(task):
        mask = is_included[task.held_out.name_ids]
        counts = TopK.from_logits(logits, task.held_out.group_ids, (1,), mask)
        cells[prefix + GROUP] = counts.compute()[1]
    return cells


def pixel_neighbour_row(task: EmojiTask) -> dict[str, Cell]:
    """Returns the row of the nearest reference picture by pixels (16 x 16).

    It sees the other styles' pictures of unseen names too, which no trained model does.
    """
    test, references = task.held_out, task.references
    queries, keys = pixel_features(test.images), pixel_features(references.images)
    scores = neighbour_scores(queries, keys, references.name_ids, len(task.names))
    cells = {}
    for prefix, is_included in _name_sets(task):
        pictures = is_included[test.name_ids]
        chosen = scores[pictures][:, is_included]  # [b, n]
        images, texts = test.name_ids[pictures], np.flatnonzero(is_included)
        to_text = _recalls_of_scores(chosen, images, texts)
        to_image = _recalls_of_scores(chosen.T, texts, images)
        cells |= _recall_cells(prefix, to_text, to_image)
    by_group = neighbour_scores(queries, keys, references.group_ids, len(task.groups))
    return {"model": "pixel neighbour, 16 px", **cells, **group_hits(by_group, task)}


def chance_row(task: EmojiTask) -> dict[str, Cell]:
    """Returns the row of a random order, exact."""
    cells = {}
    for prefix, is_included in _name_sets(task):
        labels = task.held_out.name_ids[is_included[task.held_out.name_ids]]
        per_name = np.bincount(labels, minlength=len(is_included))[is_included]
        one_each = np.ones(len(labels), np.int64)
        for k in KS:
            cells[f"{prefix}image_to_text_r{k}"] = chance_recall(len(per_name), one_each, k)
            cells[f"{prefix}text_to_image_r{k}"] = chance_recall(len(labels), per_name, k)
        cells[prefix + GROUP] = Estimate(1 / len(task.groups))
    return {"model": "chance", **cells}


def largest_group_row(task: EmojiTask) -> dict[str, Cell]:
    """Returns the row of always answering with the set's most frequent group."""
    cells = {}
    for prefix, is_included in _name_sets(task):
        groups = task.held_out.group_ids[is_included[task.held_out.name_ids]]
        cells[prefix + GROUP] = Estimate(float(np.bincount(groups).max() / len(groups)))
    return {"model": "largest group", **cells}


def _name_sets(task):
    sets = (("", ~task.is_unseen), ("unseen_", task.is_unseen))
    return [(prefix, is_included) for prefix, is_included in sets if is_included.any()]


def _recalls_of_scores(scores, query_labels, key_labels):
    ranks = best_ranks(
        jnp.asarray(scores), jnp.asarray(positives_from_labels(query_labels, key_labels))
    )
    return TopK.from_ranks(ranks, KS)


def _recall_cells(prefix, to_text, to_image):
    to_text = recall_figures(f"{prefix}image_to_text", to_text)
    return to_text | recall_figures(f"{prefix}text_to_image", to_image)
