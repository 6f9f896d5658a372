"""FID's Inception as a family of models."""

import jax
import jax.numpy as jnp

from toklip_jax.models.base import Family
from toklip_jax.models.inception.config import InceptionConfig
from toklip_jax.models.inception.keys import KEYS
from toklip_jax.models.inception.model import Inception
from toklip_jax.nn.config import Compute

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"


def _build(config: InceptionConfig, compute: Compute) -> Inception:
    return Inception(config)  # it computes in float32 whatever `compute` says


def _inputs(config: InceptionConfig):
    return (jax.ShapeDtypeStruct((1, 1, 1, 3), jnp.float32),)  # it takes images of any size


INCEPTION = Family(
    name="inception",
    title="FID's Inception v3 in pytorch-fid's names",
    role="inception",
    config=InceptionConfig,
    build=_build,
    inputs=_inputs,
    keys=KEYS,
    download=f"fetch {URL} (96 MB) and run `python -m toklip_jax.convert to-jax {FILE} inception`",
)
