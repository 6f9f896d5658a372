"""Modules from configs, whichever model it is."""

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from toklip_jax.models.config import Compute
from toklip_jax.models.inception import InceptionConfig
from toklip_jax.models.teacher import Teacher, TeacherConfig
from toklip_jax.models.toklip import TokLIP, TokLIPConfig


def build_model(config: Any, compute: Compute) -> nn.Module:
    """Returns the module of a TokLIP, teacher, VQ or Inception config."""
    if isinstance(config, TokLIPConfig):
        return TokLIP(config, compute)
    if isinstance(config, TeacherConfig):
        return Teacher(config, compute)
    return config.build(compute)


def init_params(config: Any, compute: Compute, rng: jax.Array) -> dict[str, Any]:
    """Returns fresh parameters, float32; traceable."""
    model = build_model(config, compute)
    if isinstance(config, InceptionConfig):  # takes images of any size
        return model.init(rng, jnp.zeros((1, 1, 1, 3)))["params"]
    if not hasattr(config, "vision"):
        side = config.downsample
        return model.init(rng, jnp.zeros((1, side, side, 3)))["params"]
    side = config.vision.image_size
    token_ids = jnp.zeros((1, config.text.context_length), jnp.int32)
    return model.init(rng, jnp.zeros((1, side, side, 3)), token_ids)["params"]


def param_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter by slash path, layers unrolled; computes nothing."""
    compute = Compute(is_scanned=False)
    tree = jax.eval_shape(lambda rng: init_params(config, compute, rng), jax.random.key(0))
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}
