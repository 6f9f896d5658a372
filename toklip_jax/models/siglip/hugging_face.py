"""The names that SigLIP and SigLIP 2 have in Hugging Face's files: transformers' `SiglipModel`.

The source is `convert_siglip_to_hf.py` and `modeling_siglip.py` of transformers. Of the models that
take images of many sizes (NaFlex, `Siglip2Model`), the patch embedding is a linear layer; they are
refused by its number of axes.
"""

from toklip_jax.core.errors import UserError
from toklip_jax.files.aliases import Alias, translate
from toklip_jax.models.base import Dialect, Tensors
from toklip_jax.models.siglip.names import OPEN_CLIP_BLOCK, TEXT, TIMM_BLOCK, TRUNK

VISION, TEXT_MODEL = "vision_model.", "text_model."
IGNORED = ("embeddings.position_ids",)  # a buffer that counts up, in older files
PARTS = ("q", "k", "v")
PATCHES = f"{VISION}embeddings.patch_embedding.weight"


def from_hugging_face(tensors: Tensors) -> Tensors:
    """Returns the tensors in open_clip's names.

    Raises:
        ValueError: a part is missing, or the model is one for images of many sizes.
    """
    if tensors[PATCHES].ndim == 2:
        raise UserError(
            "expected SigLIP 2 for images of one size, got a NaFlex model, which takes patches of "
            "many: use the one for 256 or 384 pixels"
        )
    kept = {name: x for name, x in tensors.items() if not name.endswith(IGNORED)}
    return translate(kept, ALIASES)


def _renamed(source: str, target: str, kinds: tuple[str, ...] = ("weight", "bias")) -> list[Alias]:
    return [Alias(f"{target}.{kind}", (f"{source}.{kind}",)) for kind in kinds]


def _block_aliases(source: str, target: str, names: dict[str, str]) -> list[Alias]:
    """A transformer block, whose three projections the map has as one."""
    packed, dot = names["qkv"], "" if names["qkv"].endswith("_") else "."
    return [
        *_renamed(f"{source}.layer_norm1", f"{target}.{names['norm1']}"),
        *(
            Alias(
                f"{target}.{packed}{dot}{kind}",
                tuple(f"{source}.self_attn.{part}_proj.{kind}" for part in PARTS),
            )
            for kind in ("weight", "bias")
        ),
        *_renamed(f"{source}.self_attn.out_proj", f"{target}.{names['proj']}"),
        *_renamed(f"{source}.layer_norm2", f"{target}.{names['norm2']}"),
        *_renamed(f"{source}.mlp.fc1", f"{target}.{names['fc1']}"),
        *_renamed(f"{source}.mlp.fc2", f"{target}.{names['fc2']}"),
    ]


def _pool_aliases(source: str, target: str) -> list[Alias]:
    """Attention pooling, whose packed projection the map has as one for q, and one for k and v."""
    return [
        Alias(f"{target}.latent", (f"{source}.probe",)),
        *(
            Alias(f"{target}.{name}.{kind}", (f"{source}.attention.in_proj_{kind}",), thirds=thirds)
            for kind in ("weight", "bias")
            for name, thirds in {"q": (0, 1), "kv": (1, 3)}.items()
        ),
        *_renamed(f"{source}.attention.out_proj", f"{target}.proj"),
        *_renamed(f"{source}.layernorm", f"{target}.norm"),
        *_renamed(f"{source}.mlp.fc1", f"{target}.mlp.fc1"),
        *_renamed(f"{source}.mlp.fc2", f"{target}.mlp.fc2"),
    ]


ALIASES = [
    *_renamed(PATCHES.removesuffix(".weight"), f"{TRUNK}patch_embed.proj"),
    Alias(f"{TRUNK}pos_embed", (f"{VISION}embeddings.position_embedding.weight",), "n d -> 1 n d"),
    *_block_aliases(f"{VISION}encoder.layers.{{i}}", f"{TRUNK}blocks.{{i}}", TIMM_BLOCK),
    *_renamed(f"{VISION}post_layernorm", f"{TRUNK}norm"),
    *_pool_aliases(f"{VISION}head", f"{TRUNK}attn_pool"),
    *_renamed(f"{TEXT_MODEL}embeddings.token_embedding", f"{TEXT}token_embedding", ("weight",)),
    Alias(f"{TEXT}positional_embedding", (f"{TEXT_MODEL}embeddings.position_embedding.weight",)),
    *_block_aliases(
        f"{TEXT_MODEL}encoder.layers.{{i}}",
        f"{TEXT}transformer.resblocks.{{i}}",
        OPEN_CLIP_BLOCK,
    ),
    *_renamed(f"{TEXT_MODEL}final_layer_norm", f"{TEXT}ln_final"),
    *_renamed(f"{TEXT_MODEL}head", f"{TEXT}text_projection"),
]
HUGGING_FACE = Dialect(
    "Hugging Face's names",
    (PATCHES, f"{VISION}encoder.layers.0.self_attn.q_proj.weight"),
    from_hugging_face,
)
