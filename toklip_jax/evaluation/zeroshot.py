"""Zero-shot classification: the class whose prompts' mean text feature is nearest to the image."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from toklip_jax.metrics import AnyArray, TopK
from toklip_jax.ops.normalize import l2_normalize

DEFAULT_SCALE = 100.0  # CLIP's cap on exp(logit_scale); it does not change the order


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
        texts = [template.format(name) for name in filled for template in templates]
        features = l2_normalize(jnp.asarray(encode_text(np.asarray(tokenize(texts)))))
        features = features.reshape(size, len(templates), -1)  # [c, templates, d]
        columns.append(np.asarray(l2_normalize(features.mean(axis=1)))[: len(names)])
    return np.concatenate(columns).T


def classify(
    image_features: Float[AnyArray, "b d"],
    classifier: Float[AnyArray, "d c"],
    scale: float = DEFAULT_SCALE,
) -> Float[Array, "b c"]:
    """Returns logits scale * x / |x| @ classifier, float32; the features need not be normalised."""
    features = l2_normalize(jnp.asarray(image_features))
    return scale * jnp.matmul(features, jnp.asarray(classifier, jnp.float32), precision="highest")


def zero_shot_accuracy(
    image_features: Float[AnyArray, "b d"],
    labels: Int[AnyArray, " b"],
    classifier: Float[AnyArray, "d c"],
    ks: tuple[int, ...] = (1, 5),
) -> TopK:
    """Counts how often the right class is among the k best."""
    return TopK.from_logits(classify(image_features, classifier), labels, ks)


def _check_prompts(class_names, templates):
    if not class_names or not templates:
        raise ValueError(
            f"expected at least one class name and one template, got {len(class_names)} and "
            f"{len(templates)}"
        )
    for template in templates:
        if "{}" not in template:
            raise ValueError(
                f"expected templates with {{}} where the class name goes, got {template!r}"
            )
