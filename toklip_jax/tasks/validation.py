"""Validation of a stage while it trains, on held-out pairs; the same figures on any mesh."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.batches import read_together
from toklip_jax.evaluation.retrieval import positives_from_labels, recall_at_k
from toklip_jax.losses.contrastive import contrastive_loss
from toklip_jax.parallel.sharding import put_batch, to_host
from toklip_jax.training.objective import Objective
from toklip_jax.training.state import Params

KS = (1, 5)
BLOCK = 1024  # texts at a time in the loss over all pairs
PREFIX = "validation/"


def validation(
    objective: Objective, batches: Callable[[], Iterator[Any]], mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Returns a function of all parameters that gives the figures over all pairs of `batches`.

    The figures are retrieval among all pairs, both ways, equal texts counting as one; the softmax
    loss over all of them; and, if there is a teacher, the distillation loss. Rows that `mask` marks
    as padding are ignored, and the figures don't depend on how hosts and devices share the rows.

    Args:
        batches: returns this host's rows of the batches, from the start at each call.
    """
    encode = jax.jit(functools.partial(_encode, objective))

    def evaluate(params: Params) -> dict[str, float]:
        with jax.set_mesh(mesh):
            rows = [
                to_host(encode(params, put_batch(_pairs(batch), mesh)))
                for batch in read_together(iter(batches()))
            ]
        rows = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
        is_there = rows.pop("mask")
        rows = {name: values[is_there] for name, values in rows.items()}
        scale = jnp.asarray(to_host(params["logit_scale"]))
        return {PREFIX + k: v for k, v in _figures(rows, scale).items()}

    return evaluate


def _encode(objective, params, batch):
    prepared = objective.prepare(params, batch)
    features = objective.encode(params, prepared, jax.random.key(0)).features
    if not {"image", "text"} <= set(features):
        raise UserError("expected an objective of images and texts to validate, got another")
    rows = {"image": features["image"], "text": features["text"]}
    rows |= {name: batch[name] for name in ("token_ids", "mask")}
    if "teacher_feature" in prepared:
        rows["teacher"] = prepared["teacher_feature"]
    return rows


def _figures(rows, logit_scale):
    # Every host has all rows by now, and computes the same on a device of its own.
    image, text = (jnp.asarray(rows[name], jnp.float32) for name in ("image", "text"))
    _, labels = np.unique(rows["token_ids"], axis=0, return_inverse=True)
    labels = labels.reshape(-1)
    positives = positives_from_labels(labels, labels)
    loss = contrastive_loss("softmax", image, text, logit_scale=logit_scale, block=BLOCK)
    figures = {"contrastive": float(loss)}
    for name, queries, keys in (("image_to_text", image, text), ("text_to_image", text, image)):
        recalls = recall_at_k(queries, keys, positives, KS).hits / len(queries)
        figures |= {f"{name}_r{k}": float(r) for k, r in zip(KS, recalls, strict=True)}
    if "teacher" in rows:
        figures["distillation"] = float(jnp.mean((image - rows["teacher"]) ** 2))
    return figures


def _pairs(batch):
    batch = {name: value for name, value in batch.items() if isinstance(value, np.ndarray)}
    if "captions" in batch and "token_ids" not in batch:
        batch["token_ids"] = batch["captions"][:, 0]
    return {name: batch[name] for name in ("images", "token_ids", "mask")}
