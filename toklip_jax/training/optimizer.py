"""AdamW and its schedule, as the released recipe has them."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name

LARGEST = float(np.finfo(np.float32).max)
SCHEDULES = ("cosine", "constant")
STACKED = "stack/blocks/"  # in the path of parameters that have a first axis for the layers


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and then a schedule; defaults are TokLIP's released recipe's.

    Attributes:
        learning_rate: the peak.
        warmup_steps: step 0 takes learning_rate / warmup_steps.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of their squares.
        eps: added to the root of the latter before dividing by it.
        weight_decay: decoupled, on tensors of two or more dimensions (in the usual layout: heads
            and layers are no dimensions), position tables and the pool's latent included.
        clip_norm: largest global norm of the gradient; 0 clips nothing.
        layer_decay: factor on the update from each block to the one below it; embeddings stand
            below the first block, norms, pooling and scales above the last. 1 changes nothing.
        ema_decay: decay of the running mean of parameters that is evaluated and saved; 0 keeps
            none.
        schedule: "cosine", to zero at the last step, or "constant".
        factors: pairs of a pattern of parameters and the factor on their learning rate, weight
            decay included; the first pattern that matches the whole slash path counts.
    """

    learning_rate: float = 1e-5
    warmup_steps: int = 782
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6
    weight_decay: float = 0.1
    clip_norm: float = 0.0
    layer_decay: float = 1.0
    ema_decay: float = 0.0
    schedule: str = "cosine"
    factors: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        for name in ("learning_rate", "warmup_steps", "eps", "weight_decay", "clip_norm"):
            value = getattr(self, name)
            if not 0 <= value <= LARGEST:  # NaN fails too
                raise UserError(
                    f"expected a {name} of at least 0 that float32 can hold, a finite number up to "
                    f"{LARGEST:.3g}, got {value}"
                )
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"expected a {name} in [0, 1), got {getattr(self, name)}")
        check_name("a schedule", self.schedule, SCHEDULES)
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"expected a layer_decay in (0, 1], got {self.layer_decay}")
        for pattern, factor in self.factors:
            if not 0 <= factor <= LARGEST:
                raise UserError(
                    f"expected a finite factor of at least 0 for {pattern!r} in factors, got "
                    f"{factor}: 0 leaves the parameters as they are"
                )
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"expected regular expressions in factors, got {pattern!r} ({error})"
                ) from error


def learning_rate(config: OptimizerConfig, total_steps: int) -> Callable[[Any], jax.Array]:
    """Returns the schedule: step (updates done) to learning rate, float32."""

    def schedule(step):
        warm = (step + 1) / max(config.warmup_steps, 1)
        span = max(total_steps - config.warmup_steps, 1)
        progress = jnp.clip((step - config.warmup_steps) / span, 0, 1)
        after = 1.0 if config.schedule == "constant" else 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return config.learning_rate * jnp.where(step < config.warmup_steps, warm, after)

    return schedule


def make_optimizer(
    config: OptimizerConfig, total_steps: int, embeddings: Sequence[str] = ()
) -> optax.GradientTransformation:
    """Returns optax's AdamW with our schedule and decay mask.

    Args:
        embeddings: see `scale_by_layer`.
    """
    adamw = optax.adamw(
        learning_rate(config, total_steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(adamw)
    if config.layer_decay != 1:
        parts.append(scale_by_layer(config.layer_decay, embeddings))
    if config.factors:
        parts.append(scale_by_pattern(config.factors))
    return optax.chain(*parts) if len(parts) > 1 else adamw


def scale_by_layer(decay: float, embeddings: Sequence[str] = ()) -> optax.GradientTransformation:
    """Returns a transformation that multiplies updates by `decay` once for each layer above.

    Weight decay is part of the update, so it is scaled alike. Layers may be stacked or not.

    Args:
        embeddings: patterns of a tower's parameters that stand below its first block.
    """

    def update(updates, state, params=None):
        del params
        flat = flax.traverse_util.flatten_dict(updates, sep="/")
        depths = _depths(flat)
        below = re.compile(rf"({'|'.join(embeddings)})(/|$)") if embeddings else None
        scaled = {
            name: _scale_layers(name, value, depths, decay, below) for name, value in flat.items()
        }
        return flax.traverse_util.unflatten_dict(scaled, sep="/"), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_pattern(factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Returns a transformation that multiplies updates by the factor of the parameter's pattern.

    Args:
        factors: see `OptimizerConfig.factors`.

    Raises:
        ValueError: when it is initialised, for a pattern that matches no parameter.
    """

    def names(tree):
        return flax.traverse_util.flatten_dict(tree, sep="/")

    def init(params):
        for pattern, _ in factors:
            if not any(re.fullmatch(pattern, name) for name in names(params)):
                raise UserError(
                    f"expected patterns of trained parameters in optimizer.factors, got "
                    f"{pattern!r}, which matches none"
                )
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        scaled = {name: value * factor(name) for name, value in names(updates).items()}
        return flax.traverse_util.unflatten_dict(scaled, sep="/"), state

    def factor(name):
        return next((f for pattern, f in factors if re.fullmatch(pattern, name)), 1.0)

    return optax.GradientTransformation(init, update)


def _depths(flat):
    """Tower -> number of blocks."""
    depths = {}
    for name, value in flat.items():
        if found := re.search(r"(.*?)/?stack/blocks(?:_(\d+))?/", name):
            depth = len(value) if found[2] is None else int(found[2]) + 1
            depths[found[1]] = max(depth, depths.get(found[1], 0))
    return depths


def _scale_layers(name, value, depths, decay, below):
    for tower, depth in depths.items():
        rest = name.removeprefix(f"{tower}/") if tower else name
        if tower and rest == name:
            continue
        if found := re.match(r"stack/blocks_(\d+)/", rest):
            return value * decay ** (depth - 1 - int(found[1]))
        if rest.startswith(STACKED):
            powers = decay ** np.arange(depth - 1, -1, -1, dtype=np.float32)
            return value * powers.reshape(-1, *(1,) * (value.ndim - 1))
        if below and below.match(rest):
            return value * decay**depth
    return value


def decay_mask(params: Any) -> Any:
    """Returns True for every parameter that decays: those that are neither scalars nor vectors.

    The axis of stacked layers is no dimension of a parameter. The bias of a `kernel` is a vector,
    whichever axes the heads give it: its shape is that of the kernel's outputs, its last axes.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")

    def decays(name, value):
        shape = value.shape[1:] if STACKED in name else value.shape
        module = name.rpartition("/")[0]
        kernel = flat.get(f"{module}/kernel" if module else "kernel")
        is_bias = kernel is not None and value.ndim < kernel.ndim and _ends(kernel.shape, shape)
        return len(shape) >= 2 and not is_bias

    mask = {name: decays(name, value) for name, value in flat.items()}
    return flax.traverse_util.unflatten_dict(mask, sep="/")


def _ends(shape, end):
    return shape[len(shape) - len(end) :] == end
