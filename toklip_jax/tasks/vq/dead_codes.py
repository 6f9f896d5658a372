"""Codes that no latent chooses any more are replaced by latents of the batch."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.models.registry import VQConfig
from toklip_jax.training.state import Params

CODE_USE = "code_use"  # parameter: the running mean of each code's share of places, [sum of z]
CANDIDATES = "candidates"  # statistic: vectors to replace codes by, [q, m, c]
IS_COUNTED = "is_counted"  # statistic: which of them are of rows that count, bool [m]
DECAY = 0.99  # of the running mean, per step
CODEBOOK = "codebook"  # the parameter's name in every quantiser that has one


def initial_use(config: VQConfig, params: Params) -> Params:
    """Returns the running means before training: all codes used alike.

    Raises:
        ValueError: the tokenizer has no codebook, or several parameters for it.
    """
    _codebook_path(flax.traverse_util.flatten_dict(params, sep="/"))
    shares = [jnp.full(size, 1 / size, jnp.float32) for size in config.codebook_sizes]
    return {CODE_USE: jnp.concatenate(shares)}


def replace_dead_codes(
    params: Mapping[str, jax.Array], statistics: Mapping[str, Any], share: float, rng: jax.Array
) -> dict[str, jax.Array]:
    """Returns the new running means and codebook, by slash path.

    Args:
        params: the parameters by slash path.
        statistics: of the batch: `CODE_USE`, `CANDIDATES` and `IS_COUNTED`. Where no candidate
            counts, nothing changes.
        share: of 1 / z, below which a code is replaced; it then counts as used like the others.
    """
    path = _codebook_path(params)
    codebook, candidates, is_counted = params[path], statistics[CANDIDATES], statistics[IS_COUNTED]
    count = jnp.sum(is_counted)
    use = DECAY * params[CODE_USE] + (1 - DECAY) * statistics[CODE_USE]
    use = jnp.where(count > 0, use, params[CODE_USE])
    books = codebook.reshape(-1, *codebook.shape[-2:])  # [q, z, c], or q = 1 that all depths share
    q, z, _ = books.shape
    of_books = jnp.mean(use.reshape(-1, q, z), axis=0)  # a shared codebook's depths together
    is_dead = (of_books * z < share) & (count > 0)
    counted_first = jnp.argsort(~is_counted)
    chosen = counted_first[jax.random.randint(rng, (q, z), 0, jnp.maximum(count, 1))]
    latents = jnp.take_along_axis(candidates, chosen[..., None], axis=1)
    books = jnp.where(is_dead[..., None], latents, books)
    reset = jnp.broadcast_to(is_dead, use.reshape(-1, q, z).shape).reshape(use.shape)
    return {path: books.reshape(codebook.shape), CODE_USE: jnp.where(reset, 1 / z, use)}


def _codebook_path(params):
    found = [path for path in params if path.split("/")[-1] == CODEBOOK]
    if len(found) != 1:
        raise UserError(
            f"expected one trained parameter {CODEBOOK!r} whose dead codes can be replaced, got "
            f"{len(found)}: set loss.dead_code_share to 0"
        )
    return found[0]
