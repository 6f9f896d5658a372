"""The text tower of SigLIP 2: no mask, pooled at the last position."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from toklip_jax.core.errors import UserError
from toklip_jax.models.siglip.config import TextConfig
from toklip_jax.nn.config import Compute
from toklip_jax.nn.norms import build_norm
from toklip_jax.nn.transformer import Stack
from toklip_jax.parallel.sharding import BATCH_AXES, constrain

TOKEN_STD, POSITION_STD = 0.02, 0.01  # standard deviations of the initial tables, CLIP's


class TextTower(nn.Module):
    """Token and position tables, full-attention blocks, final norm, last position, projection.

    Padding is not masked: the last position, usually padding, sees the whole text and is the
    feature, as SigLIP was trained.
    """

    config: TextConfig
    compute: Compute

    @nn.compact
    def __call__(
        self, token_ids: Int[Array, "b t"], is_pooled: bool = True
    ) -> Float[Array, "b d"] | Float[Array, "b t d"]:
        """Returns text features, not normalised, or all tokens after the final norm.

        Args:
            is_pooled: whether the features are returned, not the tokens.

        Raises:
            ValueError: t differs from the context length.
        """
        config, dtype = self.config, self.compute.jax_dtype
        if token_ids.shape[1] != config.context_length:
            raise UserError(
                f"expected token ids [b, {config.context_length}], got {token_ids.shape}: pad or "
                f"truncate them to the context length"
            )
        normal = nn.initializers.normal
        table = self.param("token_embed", normal(TOKEN_STD), (config.vocab_size, config.width))
        pos_embed = self.param(
            "pos_embed", normal(POSITION_STD), (config.context_length, config.width)
        )
        x = look_up(table, token_ids).astype(dtype) + pos_embed.astype(dtype)
        x, _ = Stack(config, self.compute, name="stack")(x)
        x = build_norm(config, dtype, "norm")(x)
        if not is_pooled:
            return x
        return nn.Dense(config.embed_dim, dtype=dtype, name="proj")(x[:, -1])


def look_up(table: Float[Array, "v d"], token_ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
    """Returns the rows of `table`, which may be too large to gather on every device.

    Each device looks up its columns for the rows of all devices it shares the table with; the
    results, not the table, are then exchanged.
    """
    token_ids = constrain(token_ids, "data", None)
    x = constrain(jnp.take(table, token_ids, axis=0), "data", None, "fsdp")
    return constrain(x, BATCH_AXES, None, None)
