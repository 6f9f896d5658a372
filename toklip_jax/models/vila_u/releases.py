"""VILA-U's published vision tower, which is its tokenizer."""

from toklip_jax.models.releases import File, Release, Snapshot

RELEASES = (
    Release(
        "vila-u-256",
        "VILA-U's tokenizer, 256 px",
        "MIT",
        Snapshot(
            "mit-han-lab/vila-u-7b-256",
            (File("vision_tower/model.safetensors", "2.71 GB"),),
            "89ee1eb34774f56b136197d6ae1a3b158e779fb2",
        ),
    ),
)
