"""Named sizes of T5's text encoder: those of T5 1.1 and Flan-T5."""

from toklip_jax.models.t5.config import T5Config

SIZES = {
    "flan_t5_small": T5Config(width=512, depth=8, num_heads=6, mlp_dim=1024),
    "flan_t5_base": T5Config(width=768, depth=12, num_heads=12, mlp_dim=2048),
    "flan_t5_large": T5Config(width=1024, depth=24, num_heads=16, mlp_dim=2816),
    "flan_t5_xl": T5Config(),
    "flan_t5_xxl": T5Config(width=4096, num_heads=64, mlp_dim=10_240),
}
