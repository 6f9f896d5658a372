"""What quantisers with a codebook share: the search, the lookup, and fresh codes."""

import jax
import jax.export
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Integer

from toklip_jax.core.errors import UserError
from toklip_jax.ops.nearest import nearest_code
from toklip_jax.parallel.sharding import map_sharded_rows


def search_codes(
    latents: Float[Array, "b n c"], codes: ArrayLike, metric: str = "euclidean"
) -> Int[Array, "b n"]:
    """Returns the ids of the nearest codes, int32, each device searching for its own rows.

    Args:
        codes: [z, c], float32.
    """

    def search(latents, codes):
        b, n, c = latents.shape
        # Exported programs have a symbolic batch, where blocks of rows need a number; and no
        # kernels, which other runtimes don't have.
        if jax.export.is_symbolic_dim(b):
            return jax.lax.map(lambda row: nearest_code(row, codes, "blocked", metric), latents)
        return nearest_code(latents.reshape(-1, c), codes, metric=metric).reshape(b, n)

    return map_sharded_rows(search, *jax.lax.stop_gradient((latents, codes)))


def rows_of(codebook: ArrayLike, ids: Integer[Array, "*b"]) -> Float[Array, "*b c"]:
    """Returns rows of a codebook [z, c]; NaN for ids outside it."""
    ids = jnp.asarray(ids, jnp.int32)  # the type of a cache's ids may not hold the number of codes
    ids = jnp.where(ids < 0, len(codebook), ids)  # negative ids would count from its end
    return jnp.take(codebook, ids, axis=0)


def check_ids_a_place(ids: ArrayLike, count: int) -> None:
    """Checks the shape of ids, of which `count` stand at each place.

    Raises:
        ValueError: it is not [b, n, count].
    """
    if ids.ndim != 3 or ids.shape[-1] != count:
        raise UserError(
            f"expected ids [b, n, {count}], one for each codebook of a place, got "
            f"{list(ids.shape)}: they come from another tokenizer"
        )


def init_codebook(key: jax.Array, shape: tuple[int, ...]) -> Float[Array, "*q z c"]:
    """Returns fresh codes from U(-1/z, 1/z), as VQ-VAEs draw them."""
    bound = 1 / shape[-2]
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
