"""AdamW and its schedule, as the released recipe has them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

WITHOUT_DECAY = ("bias", "scale", "logit_scale", "logit_bias")  # vectors and scalars


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine to zero; defaults are the released recipe's.

    Attributes:
        learning_rate: the peak.
        warmup_steps: step 0 takes learning_rate / warmup_steps.
        weight_decay: decoupled, on tensors of two or more dimensions (in the usual layout: heads
            and layers are no dimensions), position tables and the pool's latent included.
        clip_norm: largest global norm of the gradient; 0 clips nothing.
        ema_decay: of the running mean of parameters that is evaluated and saved; 0 keeps none.
    """

    learning_rate: float = 1e-5
    warmup_steps: int = 782
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6
    weight_decay: float = 0.1
    clip_norm: float = 0.0
    ema_decay: float = 0.0


def learning_rate(config: OptimizerConfig, total_steps: int) -> Callable[[Any], jax.Array]:
    """Returns the schedule: step (updates done) to learning rate, float32."""

    def schedule(step):
        warm = (step + 1) / max(config.warmup_steps, 1)
        span = max(total_steps - config.warmup_steps, 1)
        progress = jnp.clip((step - config.warmup_steps) / span, 0, 1)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return config.learning_rate * jnp.where(step < config.warmup_steps, warm, cosine)

    return schedule


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Returns optax's AdamW with our schedule and decay mask."""
    adamw = optax.adamw(
        learning_rate(config, total_steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    if not config.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def decay_mask(params: Any) -> Any:
    """Returns True for every parameter that decays.

    By name and not by number of dimensions: a bias here may have axes for heads and layers.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in WITHOUT_DECAY, params
    )
