"""Chameleon's published weights, within which its VQ tokenizer is."""

from toklip_jax.models.releases import File, Release, Snapshot

SHARDS = ("4.99 GB", "4.99 GB", "4.16 GB")

RELEASES = (
    Release(
        "chameleon-7b-vq",
        "Chameleon-7B's VQ tokenizer, without its decoder",
        "Chameleon Research License",
        Snapshot(
            "facebook/chameleon-7b",
            (
                File("model.safetensors.index.json"),
                *(
                    File(f"model-{number:05}-of-{len(SHARDS):05}.safetensors", size)
                    for number, size in enumerate(SHARDS, 1)
                ),
            ),
        ),
        licence_page="https://ai.meta.com/resources/models-and-libraries/chameleon-license/",
        is_gated=True,
    ),
)
