"""Sizes of the transformer towers and how they compute."""

import dataclasses
import math

import jax.numpy as jnp

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.files.shapes import MAX_LAYERS
from toklip_jax.ops.activations import activation

SO400M_MLP_RATIO = 3.7362  # 4304 / 1152, the shape of SigLIP's So400m
REMATS = ("none", "dots", "full")
NORMS = ("layer", "rms")
MLPS = ("pair", "gated")
PROJECTIONS = ("packed", "separate")
POSITIONS = ("none", "rotary", "rotary_interleaved", "rotary_2d")
DTYPES = {name: jnp.dtype(name) for name in ("float32", "bfloat16", "float16")}


@dataclasses.dataclass(frozen=True)
class Compute:
    """The types and methods that a model computes with; none changes what its parameters mean.

    Attributes:
        dtype: type of the activations; parameters stay float32, and norms, softmax, losses and
            codebook distances compute in float32.
        vq_dtype: type of the VQ tokenizer's activations; ids depend on it, so lower it knowingly.
        is_scanned: whether one stacked block is scanned over the layers (fast to compile) instead
            of `depth` separate blocks. The parameters' layout follows: `convert` stacks and
            unstacks it.
        remat: what the backward pass of a block recomputes instead of storing: "none" (only norms
            and activation functions, which are always recomputed), "dots" (everything but the
            products with weights) or "full".
    """

    dtype: str = "float32"
    vq_dtype: str = "float32"
    is_scanned: bool = True
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in REMATS:
            raise UserError(f"expected remat of {REMATS}, got {self.remat!r}")
        for dtype in (self.dtype, self.vq_dtype):
            if dtype not in DTYPES:
                raise UserError(f"expected a dtype of {sorted(DTYPES)}, got {dtype!r}")

    @property
    def jax_dtype(self) -> jnp.dtype:
        return DTYPES[self.dtype]

    @property
    def vq_jax_dtype(self) -> jnp.dtype:
        return DTYPES[self.vq_dtype]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A stack of pre-norm transformer blocks; the defaults are SigLIP's block.

    Attributes:
        mlp_dim: hidden size of the MLP; 0 means So400m's int(width * 3.7362).
        activation: a name of `ops.activations`.
        is_causal: whether a position sees only itself and those before it.
        norm: "layer", or "rms" (no mean, no bias).
        mlp: "pair", two linear layers with the activation between them; or "gated", in which an
            activated third layer multiplies the hidden units (SwiGLU with "silu").
        has_mlp_norm: whether the MLP has a second norm, after the block's own (ViTamin).
        num_kv_heads: heads of keys and values, each shared by num_heads / num_kv_heads query heads;
            0 means num_heads.
        head_dim: size of a head; 0 means width / num_heads.
        has_qkv_bias: whether the projections to queries, keys and values have biases.
        has_bias: whether the other linear layers of a block have biases.
        projection: "packed", one kernel for queries, keys and values; or "separate".
        has_qk_norm: whether each query's and key's head is normalised, before rotary positions.
        positions: rotary positions of queries and keys: "none"; "rotary", which pairs channel i
            with i + head_dim / 2 (Llama's and Qwen's files at Hugging Face); "rotary_interleaved",
            which pairs neighbouring channels; "rotary_2d", LlamaGen's over a grid (see
            `ops.rotary`). Tables of learned positions belong to the towers.
        rotary_base: wavelengths grow geometrically up to about this number of positions.
        rotary_width: columns of the grid of "rotary_2d".
        rotary_prefix: positions before the grid of "rotary_2d": those of the condition.
        init_std: standard deviation of the kernels' initial values; 0 means Xavier's uniform.
        dropout: share of a block's attention and MLP outputs that training drops.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int = 0
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-6
    is_causal: bool = False
    _: dataclasses.KW_ONLY
    norm: str = "layer"
    mlp: str = "pair"
    has_mlp_norm: bool = False
    num_kv_heads: int = 0
    head_dim: int = 0
    has_qkv_bias: bool = True
    has_bias: bool = True
    projection: str = "packed"
    has_qk_norm: bool = False
    positions: str = "none"
    rotary_base: float = 10_000.0
    rotary_width: int = 0
    rotary_prefix: int = 0
    init_std: float = 0.0
    dropout: float = 0.0

    def __post_init__(self):
        activation(self.activation)
        check_name("norm", self.norm, NORMS)
        check_name("mlp", self.mlp, MLPS)
        check_name("projection", self.projection, PROJECTIONS)
        check_name("positions", self.positions, POSITIONS)
        self._check_numbers()
        if not self.mlp_dim:
            object.__setattr__(self, "mlp_dim", int(self.width * SO400M_MLP_RATIO))
        self._set_heads()
        self._check_rotary()

    def _check_numbers(self):
        for name in ("width", "depth", "num_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"expected a {name} of at least 1, got {getattr(self, name)}")
        if self.depth > MAX_LAYERS:
            raise UserError(f"expected a depth of at most {MAX_LAYERS}, got {self.depth}")
        for name in ("mlp_dim", "num_kv_heads", "head_dim", "rotary_width", "rotary_prefix"):
            if getattr(self, name) < 0:
                raise UserError(f"expected a {name} of at least 0, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"expected a dropout in [0, 1), got {self.dropout}")
        if not 1 < self.rotary_base < math.inf:
            raise UserError(f"expected a finite rotary_base above 1, got {self.rotary_base}")
        for name in ("init_std", "norm_eps"):
            if not 0 <= getattr(self, name) < math.inf:  # NaN fails too
                raise UserError(f"expected a finite {name} >= 0, got {getattr(self, name)}")

    def _set_heads(self):
        if not self.head_dim:
            if self.width % self.num_heads:
                raise UserError(
                    f"expected num_heads to divide the width, got {self.num_heads} heads and width "
                    f"{self.width}: change one of them, or give head_dim"
                )
            object.__setattr__(self, "head_dim", self.width // self.num_heads)
        if not self.num_kv_heads:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"expected num_kv_heads to divide num_heads, got {self.num_kv_heads} and "
                f"{self.num_heads}"
            )
        if self.projection == "packed" and self.num_kv_heads != self.num_heads:
            raise UserError(
                f"expected as many heads of keys and values as of queries in a packed projection, "
                f"got {self.num_kv_heads} and {self.num_heads}: use projection='separate'"
            )

    def _check_rotary(self):
        if self.positions != "rotary_2d" and (self.rotary_width or self.rotary_prefix):
            raise UserError(
                f"expected rotary_width and rotary_prefix with positions='rotary_2d' only, got "
                f"{self.positions!r}"
            )
        if self.positions == "none":
            return
        pairs = 4 if self.positions == "rotary_2d" else 2
        if self.head_dim % pairs:
            raise UserError(
                f"expected a head_dim divisible by {pairs} for positions={self.positions!r}, got "
                f"{self.head_dim}"
            )
        if not 1 < self.rotary_base < math.inf:
            raise UserError(f"expected a rotary_base above 1, got {self.rotary_base}")
        if self.positions == "rotary_2d" and not self.rotary_width:
            raise UserError(
                "expected rotary_width, the columns of the grid, for positions='rotary_2d', got 0"
            )
