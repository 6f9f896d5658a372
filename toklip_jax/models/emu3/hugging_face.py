"""The names that Emu3's vision tokenizer has in Hugging Face's files: transformers' `Emu3VQVAE`.

Attention's projections are linear layers there, 1x1 convolutions in the original; its norms stand
beside it, within it in the original. Levels and the middle have longer names.
"""

from toklip_jax.files.aliases import Alias, translate
from toklip_jax.models.base import Dialect, Tensors

NORM = ("",)
CONDITIONED_NORM = (".norm_layer", ".conv_y", ".conv_b")  # the decoder's
PROJECTIONS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "proj_out"}
CONV_1X1 = "o i -> o i 1 1"


def from_hugging_face(tensors: Tensors) -> Tensors:
    """Returns the tensors in the original's names.

    Raises:
        ValueError: a projection of attention is not of two axes.
    """
    return translate(tensors, ALIASES)


def _renamed(source: str, target: str, pattern: str = "") -> list[Alias]:
    return [
        Alias(f"{target}.weight", (f"{source}.weight",), pattern),
        Alias(f"{target}.bias", (f"{source}.bias",)),
    ]


def _res_aliases(source: str, target: str, norm: tuple[str, ...]) -> list[Alias]:
    parts = [f"norm{i}{part}" for i in (1, 2) for part in norm]
    parts += ["conv1", "conv2", "nin_shortcut"]
    return [alias for p in parts for alias in _renamed(f"{source}.{p}", f"{target}.{p}")]


def _attention_aliases(
    source: str, source_norm: str, target: str, norm: tuple[str, ...]
) -> list[Alias]:
    aliases = []
    for theirs, ours in PROJECTIONS.items():
        aliases += _renamed(f"{source}.{theirs}", f"{target}.{ours}", CONV_1X1)
    for part in norm:
        aliases += _renamed(f"{source_norm}{part}", f"{target}.norm{part}")
    return aliases


def _level_aliases(source: str, target: str, resize: str, norm: tuple[str, ...]) -> list[Alias]:
    source, target = f"{source}.{{i}}", f"{target}.{{i}}"
    return [
        *_res_aliases(f"{source}.block.{{j}}", f"{target}.block.{{j}}", norm),
        *_attention_aliases(
            f"{source}.attn.{{j}}", f"{source}.attn_norms.{{j}}", f"{target}.attn.{{j}}", norm
        ),
        *_renamed(f"{source}.{resize}.conv", f"{target}.{resize}.conv"),
    ]


def _middle_aliases(coder: str, norm: tuple[str, ...]) -> list[Alias]:
    source, target = f"{coder}.middle_block", f"{coder}.mid"
    return [
        *_res_aliases(f"{source}.block_1", f"{target}.block_1", norm),
        *_attention_aliases(f"{source}.attn_1", f"{source}.attn_norm", f"{target}.attn_1", norm),
        *_res_aliases(f"{source}.block_2", f"{target}.block_2", norm),
    ]


ALIASES = [
    *_level_aliases("encoder.down_block.down", "encoder.down", "downsample", NORM),
    *_level_aliases("decoder.up_block.up", "decoder.up", "upsample", CONDITIONED_NORM),
    *_middle_aliases("encoder", NORM),
    *_middle_aliases("decoder", CONDITIONED_NORM),
]
HUGGING_FACE = Dialect(
    "Hugging Face's names",
    ("encoder.down_block.down.0.block.0.conv1.weight", "encoder.time_conv.0.conv.conv.weight"),
    from_hugging_face,
)
