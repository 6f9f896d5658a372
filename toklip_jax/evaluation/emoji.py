"""The demo's result table: what a drawing style never trained on is named, and what beats what."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from toklip_jax.evaluation.baselines import chance_recall, neighbour_scores, pixel_features
from toklip_jax.evaluation.batches import map_batches
from toklip_jax.evaluation.figures import ImageQuery, TextQuery
from toklip_jax.evaluation.probe import linear_probe_logits
from toklip_jax.evaluation.retrieval import nearest_keys, positives_from_labels, recall_at_k
from toklip_jax.evaluation.tables import Cell
from toklip_jax.evaluation.zeroshot import build_classifier, classify
from toklip_jax.metrics import AnyArray, Estimate, TopK, best_ranks, to_unit_range
from toklip_jax.ops.normalize import l2_normalize

ImageEncoder = Callable[[np.ndarray], AnyArray]  # float32 [b, h, w, 3] in [-1, 1] -> [b, d]
KS = (1, 5)
NAME_TEMPLATES = ("{}", "an emoji of {}")  # two of the kinds of caption trained on
GROUP_TEMPLATES = ("{}",)
GROUPS = "groups top-1"


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
    """What is asked.

    Attributes:
        names: every name that occurs in the held-out style.
        groups: names of the groups.
        is_unseen: per name, whether no picture of it was trained on, in any style.
        held_out: pictures of the held-out style.
        references: pictures of the other styles, unseen names too: pixel neighbours search all of
            them, probes train on the seen.
    """

    names: Sequence[str]
    groups: Sequence[str]
    is_unseen: Bool[np.ndarray, " n"]
    held_out: Pictures
    references: Pictures


def evaluate_emoji(
    encoders: Mapping[str, ImageEncoder],
    encode_text: Callable[[np.ndarray], AnyArray],
    tokenize: Callable[[list[str]], AnyArray],
    task: EmojiTask,
    *,
    probes: Mapping[str, ImageEncoder] | None = None,
    batch_size: int = 256,
) -> list[dict[str, Cell]]:
    """Returns the rows of the result table, each cell with its standard error.

    Args:
        encoders: label to image encoder, all in the space of `encode_text`: teacher, TokLIP.
        encode_text: token ids [b, t] to features [b, d].
        tokenize: texts to token ids [b, t].
        task: pictures, names and groups.
        probes: label to image encoder that knows no text: its features are judged by a linear probe
            of the groups, trained on the references with seen names.
        batch_size: pictures encoded a call.
    """
    names = build_classifier(encode_text, task.names, NAME_TEMPLATES, tokenize)
    groups = build_classifier(encode_text, task.groups, GROUP_TEMPLATES, tokenize)
    rows = []
    for label, encoder in encoders.items():
        features = encode_images(encoder, task.held_out.images, batch_size)
        recalls = name_recalls(features, names.T, task)
        hits = group_hits(classify(features, groups), task)
        rows.append({"model": label, **recalls, **hits})
    for label, encoder in (probes or {}).items():
        hits = probe_groups(encoder, task, batch_size)
        rows.append({"model": f"{label}, linear probe", **hits})
    return [*rows, pixel_neighbour_row(task), chance_row(task), largest_group_row(task)]


def encode_images(
    encoder: ImageEncoder,
    images: UInt8[np.ndarray, "b h w 3"] | Float[np.ndarray, "b h w 3"],
    batch_size: int,
) -> Float[np.ndarray, "b d"]:
    """Returns normalised features of all `images`."""
    features = map_batches(lambda batch: encoder(to_unit_range(batch)), (images,), batch_size)
    return np.asarray(l2_normalize(jnp.asarray(features)))


def name_recalls(
    image_features: Float[np.ndarray, "b d"],
    name_features: Float[np.ndarray, "n d"],
    task: EmojiTask,
) -> dict[str, Cell]:
    """Returns R@1 and R@5, image to text and back, of the seen names and of the unseen."""
    cells = {}
    for prefix, is_asked in _name_sets(task):
        pictures = is_asked[task.held_out.name_ids]
        images, texts = image_features[pictures], name_features[is_asked]
        image_labels, text_labels = task.held_out.name_ids[pictures], np.flatnonzero(is_asked)
        to_text = recall_at_k(images, texts, positives_from_labels(image_labels, text_labels), KS)
        to_image = recall_at_k(texts, images, positives_from_labels(text_labels, image_labels), KS)
        cells |= _recall_cells(prefix, to_text, to_image)
    return cells


def group_hits(logits: Float[AnyArray, "b c"], task: EmojiTask) -> dict[str, Cell]:
    """Returns how often the right group comes first, for pictures of seen and of unseen names."""
    cells = {}
    for prefix, is_asked in _name_sets(task):
        mask = is_asked[task.held_out.name_ids]
        counts = TopK.from_logits(logits, task.held_out.group_ids, (1,), mask)
        cells[prefix + GROUPS] = counts.compute()[1]
    return cells


def probe_groups(encoder: ImageEncoder, task: EmojiTask, batch_size: int) -> dict[str, Cell]:
    """Returns the group accuracy of a linear probe on `encoder`'s features, not normalised."""
    train = task.references.where(~task.is_unseen[task.references.name_ids])
    train_x, test_x = (
        map_batches(lambda batch: encoder(to_unit_range(batch)), (part.images,), batch_size)
        for part in (train, task.held_out)
    )
    return group_hits(linear_probe_logits(train_x, train.group_ids, test_x), task)


def pixel_neighbour_row(task: EmojiTask) -> dict[str, Cell]:
    """Returns what the nearest reference picture by pixels (16 x 16) reaches.

    It sees the other styles' pictures of unseen names too, which no trained model does.
    """
    test, references = task.held_out, task.references
    queries, keys = pixel_features(test.images), pixel_features(references.images)
    scores = neighbour_scores(queries, keys, references.name_ids, len(task.names))
    cells = {}
    for prefix, is_asked in _name_sets(task):
        pictures = is_asked[test.name_ids]
        asked = scores[pictures][:, is_asked]  # [b, n]
        images, texts = test.name_ids[pictures], np.flatnonzero(is_asked)
        to_text = _recalls_of_scores(asked, images, texts)
        to_image = _recalls_of_scores(asked.T, texts, images)
        cells |= _recall_cells(prefix, to_text, to_image)
    by_group = neighbour_scores(queries, keys, references.group_ids, len(task.groups))
    return {"model": "pixel neighbour, 16 px", **cells, **group_hits(by_group, task)}


def chance_row(task: EmojiTask) -> dict[str, Cell]:
    """Returns what a random order reaches."""
    cells = {}
    for prefix, is_asked in _name_sets(task):
        labels = task.held_out.name_ids[is_asked[task.held_out.name_ids]]
        per_name = np.bincount(labels, minlength=len(is_asked))[is_asked]
        one_each = np.ones(len(labels), np.int64)
        for k in KS:
            cells[f"{prefix}I→T R@{k}"] = chance_recall(len(per_name), one_each, k)
            cells[f"{prefix}T→I R@{k}"] = chance_recall(len(labels), per_name, k)
        cells[prefix + GROUPS] = Estimate(1 / len(task.groups))
    return {"model": "chance", **cells}


def largest_group_row(task: EmojiTask) -> dict[str, Cell]:
    """Returns what always answering the most frequent group of the set reaches."""
    cells = {}
    for prefix, is_asked in _name_sets(task):
        groups = task.held_out.group_ids[is_asked[task.held_out.name_ids]]
        cells[prefix + GROUPS] = Estimate(float(np.bincount(groups).max() / len(groups)))
    return {"model": "largest group", **cells}


def retrieval_cases(
    image_features: Float[np.ndarray, "b d"],
    name_features: Float[np.ndarray, "n d"],
    task: EmojiTask,
    picks: Sequence[int],
    *,
    depth: int = 5,
) -> tuple[list[ImageQuery], list[TextQuery]]:
    """Returns what the pictures `picks` are named, and what their names find, for a figure."""
    test = task.held_out
    picks = np.asarray(picks)
    name_ids = test.name_ids[picks]
    named, _ = nearest_keys(image_features[picks], name_features, depth)
    found, _ = nearest_keys(name_features[name_ids], image_features, depth)
    image_queries = [
        ImageQuery(test.images[pick], [task.names[i] for i in row], list(row == right))
        for pick, right, row in zip(picks, name_ids, named, strict=True)
    ]
    text_queries = [
        TextQuery(task.names[right], test.images[row], list(test.name_ids[row] == right))
        for right, row in zip(name_ids, found, strict=True)
    ]
    return image_queries, text_queries


def _name_sets(task):
    sets = (("", ~task.is_unseen), ("unseen ", task.is_unseen))
    return [(prefix, is_asked) for prefix, is_asked in sets if is_asked.any()]


def _recalls_of_scores(scores, query_labels, key_labels):
    ranks = best_ranks(
        jnp.asarray(scores), jnp.asarray(positives_from_labels(query_labels, key_labels))
    )
    return TopK.from_ranks(ranks, KS)


def _recall_cells(prefix, to_text, to_image):
    directions = {"I→T": to_text.compute(), "T→I": to_image.compute()}
    return {
        f"{prefix}{direction} R@{k}": recalls[k]
        for direction, recalls in directions.items()
        for k in KS
    }
