"""Zero-shot classification: the class whose prompts' mean text feature is nearest to the image."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores, Sources, features_of
from toklip_jax.evaluation.image_sets import ImageSource
from toklip_jax.evaluation.label_maps import expect_names, label_map, label_rows
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import available_outputs, text_space_outputs
from toklip_jax.evaluation.prompt_sets import ClassList, class_names, templates
from toklip_jax.metrics import AnyArray, TopK
from toklip_jax.ops.normalize import l2_normalize

BLOCK = 4096  # images classified at a time
MAX_CONFUSION = 64  # classes; a larger matrix can't be read
DEFAULT_SCALE = 100.0  # CLIP's cap on exp(logit_scale); it does not change the order


@dataclasses.dataclass(frozen=True)
class ZeroShot(Evaluation):
    """Top-1 and top-5 accuracy of every model among class names.

    Attributes:
        source: labelled images, or generated ones with the labels they were made for.
        classes: a list of `prompt_sets.class_names`; "" for the data set's own names.
        templates: a name or path that `prompt_sets.templates` takes.
    """

    source: ImageSource
    classes: str = ""
    templates: str = "imagenet_80"

    about: ClassVar[str] = "Classes named by text alone; no classifier was trained."

    def sets(self) -> dict[str, ImageSource]:
        return {"test": self.source}

    def outputs(
        self, models: Models, sources: Sources, has_baselines: bool
    ) -> dict[str, tuple[str, ...]]:
        features = available_outputs(models, tuple(text_space_outputs()), "zeroshot")
        return {"test": ("labels", *features)}

    def texts(self, sources: Sources) -> dict[str, list[str]]:
        names, _ = class_rows(self.classes, sources["test"])
        return {"classes": prompts(names, templates(self.templates))}

    def score(self, data: Encodings) -> Scores:
        rows = data.images["test"]
        names, to_row = class_rows(self.classes, data.sources["test"])
        labels = label_rows(rows["labels"], to_row)
        classifier = prompt_means(data.texts["classes"], len(templates(self.templates)))
        table, details = [], {}
        for model, features in features_of(rows):
            hits, guesses = accuracy_in_blocks(features, labels, classifier)
            table.append({"model": model} | {f"top{k}": v for k, v in hits.compute().items()})
            if len(names) <= MAX_CONFUSION:  # of the last model, TokLIP where there is one
                details["confusion"] = confusion(labels, guesses, names)
        if data.has_baselines:
            table.append(
                {"model": "chance", "top1": 1 / len(names), "top5": min(5 / len(names), 1)}
            )
        return Scores(table, details)


def class_rows(classes: str, source: object) -> tuple[tuple[str, ...], Int[np.ndarray, " labels"]]:
    """Returns the class names, and the row among them of each label of `source`.

    Args:
        classes: see `ZeroShot.classes`.
        source: the data source, with `classes` where it knows them.

    Raises:
        ValueError: names that don't fit the data set's classes, that are WordNet ids, or none at
            all.
    """
    own = getattr(source, "classes", None)
    if classes:
        chosen = class_names(classes)
    elif own:
        expect_names(own, type(source).__name__)
        chosen = ClassList("its own names", tuple(own))
    else:
        raise UserError(
            f"expected classes=..., as {type(source).__name__} has no class names of its own: a "
            f"text file with a name a line, or a list such as 'imagenet'"
        )
    return chosen.names, label_map(chosen, own, type(source).__name__)


def accuracy_in_blocks(
    image_features: Float[AnyArray, "b d"],
    labels: Int[AnyArray, " b"],
    classifier: Float[AnyArray, "d c"],
    ks: tuple[int, ...] = (1, 5),
) -> tuple[TopK, Int[np.ndarray, " b"]]:
    """Returns hits and the best class of each image, the logits of `BLOCK` images at a time."""
    hits, guesses = TopK.empty(ks), []
    for start in range(0, len(labels), BLOCK):
        block = slice(start, start + BLOCK)
        logits = classify(image_features[block], classifier)
        hits = hits.merge(TopK.from_logits(logits, labels[block], ks))
        guesses.append(np.asarray(jnp.argmax(logits, axis=-1)))
    return hits, np.concatenate(guesses)


def confusion(
    labels: Int[np.ndarray, " b"], guesses: Int[np.ndarray, " b"], names: Sequence[str]
) -> dict[str, list]:
    """Returns `labels`, the names, and `counts`, one row a right class, one column a guess."""
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (np.asarray(labels), np.asarray(guesses)), 1)
    return {"labels": list(names), "counts": counts.tolist()}


def build_classifier(
    encode_text: Callable[[np.ndarray], AnyArray],
    class_names: Sequence[str],
    templates: Sequence[str],
    tokenize: Callable[[list[str]], AnyArray],
    *,
    classes_per_batch: int = 32,
) -> Float[np.ndarray, "d c"]:
    """Returns one unit column per class: normalise, mean over templates, normalise.

    Args:
        encode_text: token ids [b, t] to features [b, d], normalised or not.
        class_names: one a class.
        templates: prompts with one `{}` for the class name.
        tokenize: texts to token ids, int [b, t].
        classes_per_batch: classes encoded at once; it does not change the result.

    Raises:
        ValueError: there are no classes or no templates, or a template has no `{}`.
    """
    _check_prompts(class_names, templates)
    columns = []
    size = min(classes_per_batch, len(class_names))
    for start in range(0, len(class_names), size):
        names = list(class_names[start : start + size])
        # Filled up, so that the encoder sees one shape only.
        filled = names + names[-1:] * (size - len(names))
        texts = prompts(filled, templates)
        features = encode_text(np.asarray(tokenize(texts)))
        columns.append(prompt_means(features, len(templates))[:, : len(names)])
    return np.concatenate(columns, axis=1)


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Returns each class in each template: all of the first class, then of the second.

    Raises:
        ValueError: as `build_classifier`.
    """
    _check_prompts(class_names, templates)
    return [template.format(name) for name in class_names for template in templates]


def prompt_means(
    text_features: Float[AnyArray, "n d"], num_templates: int
) -> Float[np.ndarray, "d c"]:
    """Returns one unit column per class from the features of its `prompts`."""
    features = l2_normalize(jnp.asarray(text_features))
    features = features.reshape(-1, num_templates, features.shape[-1])  # [c, templates, d]
    return np.asarray(l2_normalize(features.mean(axis=1))).T


def classify(
    image_features: Float[AnyArray, "b d"],
    classifier: Float[AnyArray, "d c"],
    scale: float = DEFAULT_SCALE,
) -> Float[Array, "b c"]:
    """Returns logits scale * x / |x| @ classifier, float32; the features need not be normalised."""
    features = l2_normalize(jnp.asarray(image_features))
    return scale * jnp.matmul(features, jnp.asarray(classifier, jnp.float32), precision="highest")


def _check_prompts(class_names, templates):
    if not class_names or not templates:
        raise UserError(
            f"expected at least one class name and one template, got {len(class_names)} and "
            f"{len(templates)}"
        )
    for template in templates:
        if "{}" not in template:
            raise UserError(
                f"expected templates with {{}} where the class name goes, got {template!r}"
            )
