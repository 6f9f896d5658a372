"""IBQ's published tokenizers."""

from toklip_jax.models.releases import File, Release, Snapshot


def _release(codes, file, training="", size=None, revision=None):
    words = ["ibq", str(codes), *filter(None, [training])]
    repository = "-".join(["TencentARC/IBQ-Tokenizer", str(codes), *filter(None, [training])])
    return Release(
        "-".join(words).lower(),
        f"IBQ, {codes:,} codes, {'200 M images' if training else 'ImageNet'}",
        "Apache-2.0",
        Snapshot(repository, (File(file, size),), revision),
    )


RELEASES = (
    _release(
        1024,
        "imagenet256_1024.ckpt",
        size="857 MB",
        revision="cb175fe944a0a2f5754a3de29d1491c91ed3e927",
    ),
    _release(8192, "imagenet256_8192.ckpt"),
    _release(16_384, "imagenet256_16384.ckpt", size="888 MB"),
    _release(262_144, "imagenet256_262144.ckpt"),
    _release(16_384, "IBQ_pretrain_16384.ckpt", "Pretrain"),
    _release(262_144, "IBQ_pretrain_262144.ckpt", "Pretrain"),
)
