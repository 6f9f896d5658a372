"""Batch norm, whose running statistics are parameters that no gradient trains."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

STATISTICS = "statistics"  # the collection that a training step reads


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias of each channel (arXiv 1502.03167), in float32.

    Mean and variance are the running ones, the parameters `mean` and `var`; in training they are
    the batch's, of all axes but the last, and gradients pass through them. Training also leaves
    them in the collection "statistics", under the parameters' names, for the step that keeps the
    running ones up to date. As in torch, that variance is the unbiased one, while x is divided by
    the biased one. Rows that only pad a batch count like the others.

    Attributes:
        eps: torch's default.
    """

    dtype: jnp.dtype
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"], is_training: bool = False) -> Float[Array, "*b c"]:
        zeros, ones, shape = nn.initializers.zeros, nn.initializers.ones, x.shape[-1:]
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        running = self.param("mean", zeros, shape), self.param("var", ones, shape)
        mean, var = jax.lax.stop_gradient(running)
        x = x.astype(jnp.float32)
        if is_training:
            axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
            mean, var = jnp.mean(x, axes), jnp.var(x, axes)
            self._leave("mean", mean)
            self._leave("var", var * count / max(count - 1, 1))
        x = (x - mean) * (jax.lax.rsqrt(var + self.eps) * scale) + bias
        return x.astype(self.dtype)

    def _leave(self, name, value):
        self.sow(STATISTICS, name, value, init_fn=lambda: 0.0, reduce_fn=lambda _, new: new)
