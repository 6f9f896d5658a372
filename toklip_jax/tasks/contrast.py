"""The contrast between rows, which objectives of images and texts share."""

from typing import Any

import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.losses.contrastive import KINDS, contrastive_loss
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.training.objective import Batch, Result
from toklip_jax.training.state import Params

MAX_LOGIT_SCALE = (
    4.605170185988092  # ln 100, CLIP's bound; the released recipe clamps to [0, ln 100]
)


def features_to_compare(image: Any, text: Any) -> dict[str, Any]:
    """Returns normalised image and text features under the names that `contrast` takes."""
    return {"image": l2_normalize(image), "text": l2_normalize(text)}


def contrast(
    kind: str, params: Params, features: dict[str, Any], batch: Batch, block: int
) -> Result:
    """Returns the contrastive loss of all rows, and its metrics.

    Args:
        kind: one of `losses.contrastive.KINDS`.
        params: parameters with `logit_scale` and, for the sigmoid, `logit_bias`.
        features: the result of `features_to_compare`.
        batch: a batch with `token_ids`, perhaps `mask`.
        block: texts at a time, 0 for all.
    """
    loss = contrastive_loss(
        kind,
        features["image"],
        features["text"],
        logit_scale=params["logit_scale"],
        logit_bias=params.get("logit_bias"),
        token_ids=batch["token_ids"],
        mask=batch.get("mask"),
        block=block,
    )
    return loss, {"contrastive": loss, "logit_scale": jnp.exp(params["logit_scale"])}


def check_contrastive(kind: str, has_logit_bias: bool) -> None:
    """Raises ValueError for an unknown loss, or a sigmoid without the bias it needs."""
    if kind not in KINDS:
        raise UserError(f"expected contrastive of {KINDS}, got {kind!r}")
    if kind == "sigmoid" and not has_logit_bias:
        raise UserError("expected has_logit_bias=True with the sigmoid loss, got False")


def clamp_logit_scale(params: Params) -> Params:
    """Returns parameters with `logit_scale`, where it is among them, within [0, ln 100]."""
    if "logit_scale" not in params:
        return params
    return params | {"logit_scale": jnp.clip(params["logit_scale"], 0, MAX_LOGIT_SCALE)}


def batch_of_pairs(
    size: tuple[int, ...], context_length: int, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch of images and texts."""
    return {
        "images": jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8),
        "token_ids": jax.ShapeDtypeStruct((batch_size, context_length), jnp.int32),
    }
