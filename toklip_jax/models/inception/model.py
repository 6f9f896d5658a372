"""The Inception v3 whose features FID compares: the graph "inception-2015-12-05".

It is not torchvision's Inception v3, nor Keras's. As in that graph, batch norms have epsilon 0.001,
average pools of branches leave padding out of the mean, the pool branch of the last block takes the
maximum, and images are resized as TensorFlow 1 did. ADM's evaluator runs the graph itself,
torch-fidelity and pytorch-fid its weights; pytorch-fid resizes otherwise, so its figures differ.
The architecture is that of arXiv 1512.00567, section 6.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from toklip_jax.models.inception.config import InceptionConfig
from toklip_jax.ops.resample import resize_images_tf1

NORM_EPS = 1e-3


class InceptionFeatures(NamedTuple):
    """The features that FID and sFID compare.

    Attributes:
        pool: means over the last grid, float32 [b, 2048] (the graph's `pool_3`).
        spatial: first 7 channels of the first 1 x 1 convolution of the block that the graph calls
            `mixed_6`, after its ReLU, in the order h, w, c: float32 [b, 17 * 17 * 7].
        probabilities: of the classes, float32 [b, 1008], for the inception score; None without a
            classifier. ADM's evaluator leaves the classifier's bias out, and so does this.
    """

    pool: Float[Array, "b p"]
    spatial: Float[Array, "b s"]
    probabilities: Float[Array, "b v"] | None = None


class Unit(NamedTuple):
    """A convolution without bias, a batch norm and a ReLU; 2 steps at a time where it halves."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class Pool(NamedTuple):
    """A 3 x 3 pool, "avg" or "max"."""

    kind: str
    stride: int = 1


class Fork(NamedTuple):
    """Units side by side, joined along channels."""

    units: tuple[Unit, ...]


Branch = tuple[Unit | Pool | Fork, ...]


class Inception(nn.Module):
    """Images to features, float32 at the highest precision."""

    config: InceptionConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> InceptionFeatures:
        """Returns the features of RGB images in [-1, 1], of any size.

        They are rounded to the nearest of 256 values first, as if they had been stored as pictures:
        the floor of 127.5 x + 128, clipped to 255, as LlamaGen's and DiT's scripts write samples.
        What was read from uint8 keeps its values. So no gradient passes.
        """
        size, divisor = self.config.image_size, self.config.divisor
        images = jnp.floor(jnp.clip(127.5 * images.astype(jnp.float32) + 128, 0, 255))
        x = (resize_images_tf1(images, size, size) - 128) / 128
        x = run(STEM, x, divisor)
        spatial = None
        for name, branches in BLOCKS.items():
            x = Block(branches, divisor, name=name)(x)
            if name == SPATIAL_BLOCK:  # whose first channels are its first branch's
                spatial = x[..., : self.config.spatial_channels].reshape(len(x), -1)  # [b, s]
        pool = jnp.mean(x, axis=(1, 2))
        return InceptionFeatures(pool, spatial, self._probabilities(pool))

    def _probabilities(self, pool):
        config = self.config
        if not config.num_classes:
            return None
        shape = (config.pool_dim, config.num_classes)
        kernel = self.param("classifier", nn.initializers.zeros, shape)
        logits = jnp.matmul(pool, jnp.asarray(kernel, jnp.float32), precision="highest")
        return jax.nn.softmax(logits, axis=-1)


class Block(nn.Module):
    """Branches over the same input, joined along channels."""

    branches: tuple[Branch, ...]
    divisor: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        return jnp.concatenate([run(branch, x, self.divisor) for branch in self.branches], axis=-1)


class ConvNorm(nn.Module):
    """The layers that a `Unit` describes; the norm's mean and variance are parameters too.

    Weights are read, never trained: initialisation gives shapes, and kernels of zeros.
    """

    unit: Unit
    divisor: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        width, stride = self.unit.width // self.divisor, self.unit.stride
        shape = (*self.unit.kernel, x.shape[-1], width)
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        kernel = self.param("kernel", zeros, shape)
        scale, bias = self.param("scale", ones, (width,)), self.param("bias", zeros, (width,))
        mean, variance = self.param("mean", zeros, (width,)), self.param("variance", ones, (width,))
        x = jax.lax.conv_general_dilated(
            x,
            jnp.asarray(kernel, jnp.float32),
            (stride, stride),
            self.unit.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return jax.nn.relu((x - mean) * (jax.lax.rsqrt(variance + NORM_EPS) * scale) + bias)


def run(branch: Branch, x: Float[Array, "b h w c"], divisor: int) -> Float[Array, "b H W d"]:
    """Applies a branch's steps in turn, in the caller's scope."""
    for step in branch:
        if isinstance(step, Unit):
            x = ConvNorm(step, divisor, name=step.name)(x)
        elif isinstance(step, Fork):
            x = jnp.concatenate([run((unit,), x, divisor) for unit in step.units], axis=-1)
        else:
            x = _pool(step, x)
    return x


def _pool(step, x):
    stride, padding = (step.stride, step.stride), "SAME" if step.stride == 1 else "VALID"
    if step.kind == "max":
        return nn.max_pool(x, (3, 3), stride, padding)
    return nn.avg_pool(x, (3, 3), stride, padding, count_include_pad=False)


def _half(name: str, width: int) -> Unit:
    return Unit(name, width, (3, 3), stride=2, padding="VALID")


def _fork(name: str) -> Fork:
    return Fork((Unit(f"{name}a", 384, (1, 3)), Unit(f"{name}b", 384, (3, 1))))


def _grid_35(pool_width: int) -> tuple[Branch, ...]:
    return (
        (Unit("branch_1x1", 64),),
        (Unit("branch_5x5_1", 48), Unit("branch_5x5_2", 64, (5, 5))),
        (*_double_3x3(), Unit("branch_double_3x3_3", 96, (3, 3))),
        (Pool("avg"), Unit("branch_pool", pool_width)),
    )


def _double_3x3() -> Branch:
    return (Unit("branch_double_3x3_1", 64), Unit("branch_double_3x3_2", 96, (3, 3)))


def _grid_17(width: int) -> tuple[Branch, ...]:
    """A 7 x 7 convolution as 1 x 7 and 7 x 1, once and twice."""
    once, twice = "branch_7x7_", "branch_double_7x7_"
    return (
        (Unit("branch_1x1", 192),),
        (
            Unit(f"{once}1", width),
            Unit(f"{once}2", width, (1, 7)),
            Unit(f"{once}3", 192, (7, 1)),
        ),
        (
            Unit(f"{twice}1", width),
            Unit(f"{twice}2", width, (7, 1)),
            Unit(f"{twice}3", width, (1, 7)),
            Unit(f"{twice}4", width, (7, 1)),
            Unit(f"{twice}5", 192, (1, 7)),
        ),
        (Pool("avg"), Unit("branch_pool", 192)),
    )


def _grid_8(pool: str) -> tuple[Branch, ...]:
    twice = "branch_double_3x3_"
    return (
        (Unit("branch_1x1", 320),),
        (Unit("branch_3x3_1", 384), _fork("branch_3x3_2")),
        (Unit(f"{twice}1", 448), Unit(f"{twice}2", 384, (3, 3)), _fork(f"{twice}3")),
        (Pool(pool), Unit("branch_pool", 192)),
    )


STEM: Branch = (
    _half("conv_1a", 32),
    Unit("conv_2a", 32, (3, 3), padding="VALID"),
    Unit("conv_2b", 64, (3, 3)),
    Pool("max", stride=2),
    Unit("conv_3b", 80),
    Unit("conv_4a", 192, (3, 3), padding="VALID"),
    Pool("max", stride=2),
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "mixed_5b": _grid_35(32),
    "mixed_5c": _grid_35(64),
    "mixed_5d": _grid_35(64),
    "mixed_6a": (
        (_half("branch_3x3", 384),),
        (*_double_3x3(), _half("branch_double_3x3_3", 96)),
        (Pool("max", stride=2),),
    ),
    "mixed_6b": _grid_17(128),
    "mixed_6c": _grid_17(160),
    "mixed_6d": _grid_17(160),
    "mixed_6e": _grid_17(192),
    "mixed_7a": (
        (Unit("branch_3x3_1", 192), _half("branch_3x3_2", 320)),
        (
            Unit("branch_7x7x3_1", 192),
            Unit("branch_7x7x3_2", 192, (1, 7)),
            Unit("branch_7x7x3_3", 192, (7, 1)),
            _half("branch_7x7x3_4", 192),
        ),
        (Pool("max", stride=2),),
    ),
    "mixed_7b": _grid_8("avg"),
    "mixed_7c": _grid_8("max"),
}
SPATIAL_BLOCK = "mixed_6d"  # the graph counts its blocks mixed, mixed_1, ..., mixed_10
