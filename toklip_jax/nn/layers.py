"""The linear layers of a transformer: MLPs, and projections to and from heads."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.ops.activations import activation, gated
from toklip_jax.ops.products import dot_general, promote_to
from toklip_jax.parallel.sharding import BATCH_AXES, constrain


class Mlp(nn.Module):
    """fc2(activation(fc1(x))), or fc2(activation(gate(x)) * fc1(x)) if gated.

    Attributes:
        init_std: standard deviation of the kernels' initial values; 0 means Xavier's uniform.
    """

    hidden_dim: int
    out_dim: int
    activation: str
    dtype: jnp.dtype = jnp.float32
    is_gated: bool = False
    has_bias: bool = True
    init_std: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b *n c"]) -> Float[Array, "b *n d"]:
        hidden = self._hidden(x, "fc1")
        if self.is_gated:
            hidden = gated(self.activation)(self._hidden(x, "gate"), hidden)
        else:
            hidden = activation(self.activation)(hidden)
        return self._linear(self.out_dim, "fc2")(hidden)

    def _hidden(self, x, name):
        x = self._linear(self.hidden_dim, name)(x)
        return constrain(x, BATCH_AXES, *(None,) * (x.ndim - 2), "tensor")

    def _linear(self, features, name):
        normal = nn.initializers.normal(self.init_std)
        return nn.Dense(
            features,
            use_bias=self.has_bias,
            dtype=self.dtype,
            promote_dtype=promote_to,
            dot_general=dot_general,
            kernel_init=normal if self.init_std else nn.initializers.xavier_uniform(),
            name=name,
        )


class Projection(nn.Module):
    """A linear layer whose input or output is split into axes, such as heads.

    It stands in for `nn.DenseGeneral`, which flattens its kernel to initialise it: sharding by axis
    can't follow that.

    Attributes:
        init_std: standard deviation of the kernel's initial values; 0 means Xavier's uniform.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32
    has_bias: bool = True
    init_std: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        ndim = len(self.in_shape)
        shape = self.in_shape + self.out_shape
        kernel = self.param("kernel", self._init(), shape, jnp.float32).astype(self.dtype)
        axes = tuple(range(x.ndim - ndim, x.ndim)), tuple(range(ndim))
        y = dot_general(x.astype(self.dtype), kernel, (axes, ((), ())))
        if not self.has_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, self.out_shape, jnp.float32)
        return y + bias.astype(self.dtype)

    def _init(self):
        if self.init_std:
            return nn.initializers.normal(self.init_std)
        ndim = len(self.in_shape)
        axes = tuple(range(ndim)), tuple(range(ndim, ndim + len(self.out_shape)))
        return nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", *axes)


def shard_heads(x: Float[Array, "b n k e"]) -> Float[Array, "b n k e"]:
    """Puts the batch over `data` and `fsdp`, and the heads over `tensor`."""
    return constrain(x, BATCH_AXES, None, "tensor", None)
