"""The sizes of VILA-U's tokenizers, and the one in the recorded fixture.

Encoders and codes are those of the paper's table 1; the tokenizer of 384 pixels was not published.
The decoders' sizes stand in configs on the hub, which were not seen: here they are those of VQGAN's
f16, the code that they are built with. Nothing depends on them where a file is read, since its own
shapes tell.
"""

from toklip_jax.models.vila_u.config import VilaUConfig

SIZES = {
    "vila_u_256": VilaUConfig(),
    "vila_u_384": VilaUConfig(
        image_size=384,
        patch_size=14,
        width=1152,
        depth=26,
        mlp_dim=4304,
        codes_per_place=16,
        decoder_grid=24,
    ),
    "vila_u_tiny": VilaUConfig(
        image_size=64,
        width=64,
        depth=3,
        num_heads=4,
        mlp_dim=128,
        codebook_size=256,
        channels=32,
        multipliers=(1, 1, 1, 1, 2),
        num_res_blocks=1,
        z_channels=32,
    ),
}
