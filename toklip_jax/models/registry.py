"""The one list of model families; `register` adds those of other packages."""

import functools
import math
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.models.base import (
    Dialect,
    Family,
    ForeignKeys,
    Hints,
    VQConfig,
    VQOutput,
    family_of,
    find_family,
    ids_shape,
    keys_of,
    register,
    registered,
)
from toklip_jax.models.chameleon.family import CHAMELEON
from toklip_jax.models.conv_vq.family import CONV_VQ
from toklip_jax.models.emu3.family import EMU3
from toklip_jax.models.generator.family import GENERATOR
from toklip_jax.models.ibq.family import IBQ
from toklip_jax.models.inception.family import INCEPTION
from toklip_jax.models.llamagen.family import LLAMAGEN
from toklip_jax.models.magvit2.family import MAGVIT2
from toklip_jax.models.multimodal.family import MULTIMODAL
from toklip_jax.models.qwen.family import QWEN
from toklip_jax.models.recognition import recognise
from toklip_jax.models.siglip.family import SIGLIP
from toklip_jax.models.t5.family import T5
from toklip_jax.models.taming.family import TAMING
from toklip_jax.models.toklip.family import TOKLIP
from toklip_jax.models.unitok.family import UNITOK
from toklip_jax.models.vila_u.family import VILA_U
from toklip_jax.nn.config import Compute
from toklip_jax.nn.layout import to_unrolled

# Emu3's files have all names by which IBQ's, Chameleon's and taming's are told: it goes first.
FAMILIES = (
    TOKLIP,
    SIGLIP,
    LLAMAGEN,
    EMU3,
    IBQ,
    CHAMELEON,
    TAMING,
    VILA_U,
    UNITOK,
    MAGVIT2,
    CONV_VQ,
    INCEPTION,
    GENERATOR,
    T5,
    QWEN,
    MULTIMODAL,
)
for _family in FAMILIES:
    register(_family)

__all__ = [
    "FAMILIES",
    "Dialect",
    "Family",
    "ForeignKeys",
    "Hints",
    "VQConfig",
    "VQOutput",
    "build_model",
    "family_of",
    "find_family",
    "ids_shape",
    "init_params",
    "keys_of",
    "named_size",
    "param_shapes",
    "recognise",
    "register",
    "registered",
]


def build_model(config: Any, compute: Compute) -> nn.Module:
    """Returns the module of a model's config.

    Raises:
        ValueError: the config of no registered family.
    """
    return family_of(config).build(config, compute)


def init_params(config: Any, compute: Compute, rng: jax.Array) -> dict[str, Any]:
    """Returns fresh parameters, float32; traceable."""
    family = family_of(config)
    inputs = [jnp.zeros(x.shape, x.dtype) for x in family.inputs(config)]
    return family.build(config, compute).init(rng, *inputs)["params"]


def param_shapes(config: Any, is_scanned: bool = False) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter by slash path; computes nothing.

    One layer of each stack is traced, so that a deep model takes no longer than a shallow one.

    Args:
        is_scanned: whether layers are stacked.
    """
    tree = _shapes_of_layers(config)
    if not is_scanned:
        tree = to_unrolled(tree, lambda leaf, _: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype))
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


@functools.lru_cache(maxsize=32)
def _shapes_of_layers(config):
    """The shapes and types of a model's parameters, layers stacked."""
    compute = Compute(is_scanned=True)
    return jax.eval_shape(lambda: init_params(config, compute, jax.random.key(0)))


def named_size(name: str, *roles: str) -> Any:
    """Returns the config that a family of one of these roles has under `name`.

    Raises:
        ValueError: there is none; says which there are.
    """
    sizes = {n: c for f in registered() if f.role in roles for n, c in f.sizes.items()}
    if name not in sizes:
        raise UserError(f"expected a size of {sorted(sizes)}, got {name!r}")
    return sizes[name]


def count_params(config: Any) -> int:
    """Returns the number of a model's parameters."""
    return sum(math.prod(shape) for shape in param_shapes(config).values())
