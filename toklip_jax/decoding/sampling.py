"""How ids are drawn from logits, and the random keys that they are drawn with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.decoding.filters import filter_logits, guide

Number = float | int
LARGEST = float(np.finfo(np.float32).max)
MAX_PLACES = 2**30  # of a sequence: no interval is longer
ALWAYS = -1  # a `cfg_interval` under which every id is guided


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How ids are drawn; the defaults draw from the model's own distribution.

    Attributes:
        temperature: divides logits; 0 takes the most probable id (greedy).
        top_k: the number of values that may be drawn; 0 for all.
        top_p: the share of the probability that they have together; 1 for all.
        cfg_scale: scale of classifier-free guidance; 1 or less uses none.
        cfg_interval: only ids 0 to cfg_interval + 1 are guided, as in LlamaGen's code; -1 guides
            all.
    """

    temperature: Number = 1.0
    top_k: int = 0
    top_p: Number = 1.0
    cfg_scale: Number = 1.0
    cfg_interval: int = ALWAYS

    def __post_init__(self):
        for name in ("temperature", "cfg_scale"):
            if not 0 <= getattr(self, name) <= LARGEST:  # NaN fails too
                raise UserError(
                    f"expected a {name} of at least 0 that float32 can hold, got "
                    f"{getattr(self, name)}"
                )
        if self.top_k < 0:
            raise UserError(f"expected a top_k of at least 0 (0 keeps all), got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"expected a top_p in [0, 1], got {self.top_p}")
        if not ALWAYS <= self.cfg_interval < MAX_PLACES:
            raise UserError(
                f"expected a cfg_interval from {ALWAYS} ({ALWAYS} guides every id) to below "
                f"{MAX_PLACES}, got {self.cfg_interval}"
            )

    @property
    def is_guided(self) -> bool:
        """Whether a second, unconditional half of the batch is needed."""
        return self.cfg_scale > 1

    @property
    def conditions(self) -> int:
        """Conditions that each row has in the model's batch: 2 under guidance."""
        return 2 if self.is_guided else 1

    def guided(
        self, logits: Float[Array, "c v"], place: Int[Array, ""] | int
    ) -> Float[Array, "b v"]:
        """Returns the logits that count, of the conditional half and the unconditional one.

        Args:
            logits: under guidance, [conditional; unconditional].
            place: index of the id, which may be past the interval.
        """
        if not self.is_guided:
            return logits
        conditional, unconditional = jnp.split(logits, 2)
        guided = guide(conditional, unconditional, self.cfg_scale)
        if self.cfg_interval == ALWAYS:
            return guided
        return jnp.where(place <= self.cfg_interval + 1, guided, conditional)


def draw(
    logits: Float[Array, "b v"], keys: jax.Array | None, sampling: Sampling
) -> Int[Array, " b"]:
    """Returns an id for each row, int32.

    Args:
        logits: guided already.
        keys: a random key for each row; greedy draws need none.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    kept = filter_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, kept.shape[-1:]))(keys)
    return jnp.argmax(kept + noise, axis=-1).astype(jnp.int32)


@jax.jit
def row_keys(key: jax.Array, indices: Int[Array, " b"]) -> jax.Array:
    """Returns a key for each sample, from its index alone.

    So what is drawn depends neither on the batch's size nor on how it is sharded.
    """
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def fold_rows(keys: jax.Array, number: Int[Array, ""] | int) -> jax.Array:
    """Returns new keys, one for each of `keys`, for the draw of this number."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
