"""Training a VQ tokenizer as a task."""

import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.tasks.base import fresh_task
from toklip_jax.tasks.vq.objective import VQObjective


def _batch(objective: VQObjective, size: tuple[int, ...] | None, batch_size: int):
    if size is None:
        raise UserError(
            "expected the config's image_size, as a VQ tokenizer takes images of any size, got 0"
        )
    objective.model_config.grid_of(*size)
    return {"images": jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8)}


VQ = fresh_task(
    "vq",
    VQObjective,
    role="vq",
    batch=_batch,
    needs_text=False,
    has_validation=False,
)
