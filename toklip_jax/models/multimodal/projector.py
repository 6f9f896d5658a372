"""The projector: from an image's tokens to the language model's embeddings (LLaVA-1.5's)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.models.toklip.token_encoder import uniform
from toklip_jax.ops.activations import activation
from toklip_jax.ops.products import dot_general

ACTIVATION = "gelu_erf"  # torch's nn.GELU()


class Projector(nn.Module):
    """fc2(GELU(fc1(x))) with the exact GELU and biases, initialised as torch.nn.Linear is.

    Attributes:
        width: of the hidden layer and the result.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        return self._linear("fc2", self.width)(activation(ACTIVATION)(self._fc1(x)))

    def _fc1(self, x):
        return self._linear("fc1", x.shape[-1])(x)

    def _linear(self, name: str, fan_in: int) -> nn.Dense:
        bound = fan_in**-0.5
        return nn.Dense(
            self.width,
            dtype=self.dtype,
            dot_general=dot_general,
            kernel_init=uniform(bound),
            bias_init=uniform(bound),
            name=name,
        )
