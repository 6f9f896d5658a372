"""LLaVA's names: a projector alone, and the language model with its projector."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.traverse_util

from toklip_jax.core.errors import UserError
from toklip_jax.files import AnyLazy
from toklip_jax.files.rules import to_jax, to_torch
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.multimodal.keys import LLAVA, PREFIX, projector_rules
from toklip_jax.nn.lora import merged
from toklip_jax.weights.base import Weights
from toklip_jax.weights.conversion import export_tensors


def projector_params(tensors: Mapping[str, AnyLazy], input_dim: int, width: int) -> dict[str, Any]:
    """Returns a projector's parameters from a file of LLaVA's, whatever else it holds.

    Args:
        tensors: by name, "model.mm_projector.0.weight" and so on, with or without "model.".
        input_dim: width of the tokens that it takes.
        width: the language model's.

    Raises:
        ValueError: no projector of these sizes.
    """
    own = {f"{LLAVA}{n.removeprefix(LLAVA)}": x for n, x in tensors.items()}
    own = {name: x for name, x in own.items() if name.startswith(f"{LLAVA}{PREFIX}.")}
    if not own:
        raise UserError(
            f"expected a projector in LLaVA's names, {LLAVA}{PREFIX}.0.weight and so on, got "
            f"tensors called {', '.join(list(tensors)[:4]) or 'nothing'}"
        )
    shapes = {"fc1/kernel": (input_dim, width), "fc1/bias": (width,)}
    shapes |= {"fc2/kernel": (width, width), "fc2/bias": (width,)}
    paths = {f"projector/{name}": shape for name, shape in shapes.items()}
    flat, _ = to_jax(own, projector_rules("projector"), paths)
    return flax.traverse_util.unflatten_dict(flat, sep="/")["projector"]


def llava_tensors(weights: Weights) -> dict[str, AnyLazy]:
    """Returns the tensors of the language model and its projector, by LLaVA's names.

    LoRA's additions are in the kernels.

    Raises:
        ValueError: no multimodal model, or one that reads several kinds of features or ids, for
            which LLaVA has no names.
    """
    config = weights.config
    if not isinstance(config, MultimodalConfig) or len(config.feature_dims) != 1:
        raise UserError(
            "expected a multimodal model with one projector, got "
            f"{getattr(config, 'reads', type(config).__name__)}"
        )
    if config.predicts_images:
        raise UserError(
            "expected a model that reads no ids of images, which LLaVA has no names for"
        )
    weights = merge_lora(weights.with_layout(False))
    path = f"projector_{config.reads[0]}"
    params = flax.traverse_util.flatten_dict({path: weights.params[path]}, sep="/")
    return export_tensors(language_model_of(weights)) | to_torch(params, projector_rules(path), {})


def language_model_of(weights: Weights) -> Weights:
    """Returns the language model of a multimodal model, LoRA's additions in its kernels."""
    weights = merge_lora(weights)
    return dataclasses.replace(
        weights, config=weights.config.language_model, params=weights.params["language_model"]
    )


def merge_lora(weights: Weights) -> Weights:
    """Returns a multimodal model's weights with LoRA's additions in the kernels, and no LoRA."""
    config = weights.config
    if not config.lora_rank:
        return weights
    params = weights.params | {
        "language_model": merged(weights.params["language_model"], config.lora_scale)
    }
    config = dataclasses.replace(config, lora_rank=0, lora_alpha=0.0)
    return dataclasses.replace(weights, config=config, params=params)
