"""The names that SigLIP 2 has in open_clip's files, and in timm's of the image tower."""

from toklip_jax.models.base import Dialect, Tensors

TRUNK, TEXT = "visual.trunk.", "text."
TIMM_BLOCK = {
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
OPEN_CLIP_BLOCK = {
    "norm1": "ln_1",
    "qkv": "attn.in_proj_",
    "proj": "attn.out_proj",
    "norm2": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def _from_timm(tensors: Tensors) -> Tensors:
    """Returns the tensors in open_clip's names, within which timm's image tower has a prefix."""
    others = (TEXT, "logit_")
    return {n if n.startswith(others) else f"{TRUNK}{n}": x for n, x in tensors.items()}


TIMM = Dialect(
    "timm's names",
    ("patch_embed.proj.weight", "pos_embed", "attn_pool.latent", "blocks.0.attn.qkv.weight"),
    _from_timm,
)
IMAGE_TOWER = Dialect(
    "open_clip's names, the image tower alone",
    (f"{TRUNK}patch_embed.proj.weight", f"{TRUNK}attn_pool.latent"),
    lambda tensors: tensors,
)
