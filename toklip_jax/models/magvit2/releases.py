"""Open-MAGVIT2's published tokenizers."""

from toklip_jax.models.releases import File, Release, Snapshot

REPOSITORY = "TencentARC/Open-MAGVIT2-Tokenizer"


def _release(name, title, suffix, file, revision=None):
    snapshot = Snapshot(f"{REPOSITORY}-{suffix}", (file,), revision)
    return Release(f"open-magvit2-{name}", f"Open-MAGVIT2, {title}", "Apache-2.0", snapshot)


RELEASES = (
    _release(
        "256",
        "262,144 codes, ImageNet, 256 px",
        "256-resolution",
        File("imagenet_256_L.ckpt", "921 MB"),
        "21796c66c698a7c65178a073e0a0358ebbcb6365",
    ),
    _release(
        "128",
        "262,144 codes, ImageNet, 128 px",
        "128-resolution",
        File("imagenet_128_L.ckpt"),
    ),
    _release(
        "16384-pretrain",
        "16,384 codes, 100 M images",
        "16384-Pretrain",
        File("pretrain256_16384.ckpt", "921 MB"),
    ),
    _release(
        "262144-pretrain",
        "262,144 codes, 100 M images",
        "262144-Pretrain",
        File("pretrain256_262144.ckpt", "921 MB"),
        "54df234dec28d7396ee42f7bc5f87111584ab0db",
    ),
)
