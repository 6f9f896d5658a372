"""The names and layouts that SigLIP and SigLIP 2 have in big_vision's `.npz` files, the originals.

The source is `convert_siglip_to_hf.py` of transformers, which reads them, and big_vision's
`models/vit.py` and `models/proj/image_text/text_transformer.py`. Layers are apart
(`encoderblock_0`) or stacked along a first axis (`encoderblock`).
"""

from collections.abc import Mapping

from toklip_jax.core.errors import UserError
from toklip_jax.files.aliases import Alias, translate
from toklip_jax.files.shapes import MAX_LAYERS
from toklip_jax.models.base import Dialect, Tensors
from toklip_jax.models.siglip.names import OPEN_CLIP_BLOCK, TEXT, TIMM_BLOCK, TRUNK

ATTENTION = "MultiHeadDotProductAttention_0"
STACKED = "/encoderblock/"
KERNEL, CONV = "i o -> o i", "h w i o -> o i h w"
HEADS_IN, HEADS_IN_BIAS, HEADS_OUT = "d k e -> (k e) d", "k e -> (k e)", "k e d -> d (k e)"
TOWERS = {"num_heads": "img/Transformer", "text_num_heads": "txt/Encoder_0"}


def from_big_vision(tensors: Tensors) -> Tensors:
    """Returns the tensors in open_clip's names and layouts.

    Raises:
        ValueError: a part is missing, or has another number of axes.
    """
    return translate(_unstacked(tensors), ALIASES)


def _unstacked(tensors):
    apart = {}
    for name, tensor in tensors.items():
        if STACKED not in name:
            apart[name] = tensor
            continue
        if not tensor.ndim or len(tensor) > MAX_LAYERS:
            raise UserError(
                f"expected at most {MAX_LAYERS} layers stacked in {name}, got {tensor.shape}"
            )
        for i, layer in enumerate(tensor):
            apart[name.replace(STACKED, f"/encoderblock_{i}/", 1)] = layer
    return apart


def _heads(tensors: Tensors) -> Mapping[str, int]:
    """The numbers of heads, an axis of the kernels here."""
    found = {}
    for field, tower in TOWERS.items():
        for block in (f"{tower}/encoderblock", f"{tower}/encoderblock_0"):
            kernel = tensors.get(f"{block}/{ATTENTION}/query/kernel")
            if kernel is not None and kernel.ndim >= 3:
                found[field] = int(kernel.shape[-2])
    return found


def _linear(source: str, target: str, pattern: str = KERNEL) -> list[Alias]:
    return [
        Alias(f"{target}.weight", (f"{source}/kernel",), pattern),
        Alias(f"{target}.bias", (f"{source}/bias",)),
    ]


def _norm(source: str, target: str) -> list[Alias]:
    return [
        Alias(f"{target}.weight", (f"{source}/scale",)),
        Alias(f"{target}.bias", (f"{source}/bias",)),
    ]


def _heads_in(source: str, target: str, parts: tuple[str, ...]) -> list[Alias]:
    """Projections to heads, which the map has as one; `target` ends as its names do."""
    return [
        Alias(f"{target}weight", tuple(f"{source}/{part}/kernel" for part in parts), HEADS_IN),
        Alias(f"{target}bias", tuple(f"{source}/{part}/bias" for part in parts), HEADS_IN_BIAS),
    ]


def _block_aliases(source: str, target: str, names: dict[str, str]) -> list[Alias]:
    packed = names["qkv"] if names["qkv"].endswith("_") else f"{names['qkv']}."
    return [
        *_norm(f"{source}/LayerNorm_0", f"{target}.{names['norm1']}"),
        *_heads_in(f"{source}/{ATTENTION}", f"{target}.{packed}", ("query", "key", "value")),
        *_linear(f"{source}/{ATTENTION}/out", f"{target}.{names['proj']}", HEADS_OUT),
        *_norm(f"{source}/LayerNorm_1", f"{target}.{names['norm2']}"),
        *_linear(f"{source}/MlpBlock_0/Dense_0", f"{target}.{names['fc1']}"),
        *_linear(f"{source}/MlpBlock_0/Dense_1", f"{target}.{names['fc2']}"),
    ]


def _pool_aliases(source: str, target: str) -> list[Alias]:
    return [
        Alias(f"{target}.latent", (f"{source}/probe",)),
        *_heads_in(f"{source}/{ATTENTION}", f"{target}.q.", ("query",)),
        *_heads_in(f"{source}/{ATTENTION}", f"{target}.kv.", ("key", "value")),
        *_linear(f"{source}/{ATTENTION}/out", f"{target}.proj", HEADS_OUT),
        *_norm(f"{source}/LayerNorm_0", f"{target}.norm"),
        *_linear(f"{source}/MlpBlock_0/Dense_0", f"{target}.mlp.fc1"),
        *_linear(f"{source}/MlpBlock_0/Dense_1", f"{target}.mlp.fc2"),
    ]


ALIASES = [
    *_linear("img/embedding", f"{TRUNK}patch_embed.proj", CONV),
    Alias(f"{TRUNK}pos_embed", ("img/pos_embedding",)),
    *_block_aliases("img/Transformer/encoderblock_{i}", f"{TRUNK}blocks.{{i}}", TIMM_BLOCK),
    *_norm("img/Transformer/encoder_norm", f"{TRUNK}norm"),
    *_pool_aliases("img/MAPHead_0", f"{TRUNK}attn_pool"),
    Alias(f"{TEXT}token_embedding.weight", ("txt/Embed_0/embedding",)),
    Alias(f"{TEXT}positional_embedding", ("txt/pos_embedding",), "1 t d -> t d"),
    *_block_aliases(
        "txt/Encoder_0/encoderblock_{i}", f"{TEXT}transformer.resblocks.{{i}}", OPEN_CLIP_BLOCK
    ),
    *_norm("txt/Encoder_0/encoder_norm", f"{TEXT}ln_final"),
    *_linear("txt/head", f"{TEXT}text_projection"),
    Alias("logit_scale", ("t",)),
    Alias("logit_bias", ("b",)),
]
BIG_VISION = Dialect(
    "big_vision's names", ("img/embedding/kernel", "img/MAPHead_0/probe"), from_big_vision, _heads
)
