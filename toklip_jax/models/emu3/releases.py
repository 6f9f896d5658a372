"""The published weights of Emu3's vision tokenizer."""

from toklip_jax.models.releases import File, Release, Snapshot

RELEASES = (
    Release(
        "emu3-vision-tokenizer",
        "Emu3's tokenizer of images and videos",
        "Apache-2.0",
        Snapshot(
            "BAAI/Emu3-VisionTokenizer",
            (
                File(
                    "model.safetensors",
                    "1.08 GB",
                    "89536431c69b08b10b449ec309f52dcea22f14b7647317f30f5715273392bbf1",
                ),
            ),
            "c81f916ad371289e205310a7539255e8a9396488",
        ),
    ),
)
