"""The smallest objective, and a run of the loop on it: a line that is fitted in milliseconds."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh
from toklip_jax.training.loop import train
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.objective import Encoded, Objective
from toklip_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Line(Objective):
    """y = a x + b: fits the slope `a`; `b` is frozen."""

    trainable: tuple[str, ...] = ("slope/a",)
    compute: Compute = dataclasses.field(default_factory=Compute)

    def init(self, rng):
        return {"slope": {"a": jnp.zeros(()), "b": jnp.float32(1)}}

    def encode(self, params, batch, rng):
        error = params["slope"]["a"] * batch["x"] + params["slope"]["b"] - batch["y"]
        weight = jnp.float32(len(error))
        return Encoded({}, jnp.sum(error**2), weight, {"noise": weight * jax.random.normal(rng)})


def batches(start):
    for step in itertools.count(start):
        x = np.random.default_rng(step).normal(size=8).astype(np.float32)
        yield {"x": x, "y": 3 * x + 1}


def fit(
    directory,
    steps=40,
    *,
    source=batches,
    optimizer=None,
    context=None,
    objective=None,
    **loop,
):
    objective = objective or Line()
    optimizer = optimizer or OptimizerConfig(0.3, 2, weight_decay=0.0)
    config = LoopConfig(steps, **{"log_every": 1, "save_every": 10, **loop})
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    params = objective.init(jax.random.key(0))
    return train(
        objective,
        params,
        source,
        optimizer=optimizer,
        config=config,
        mesh=mesh,
        directory=directory,
        context=context,
    )
