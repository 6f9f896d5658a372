"""The published text encoder that LlamaGen's generators of captions were trained with."""

from toklip_jax.models.releases import File, Release, Snapshot

RELEASES = (
    Release(
        "flan-t5-xl",
        "Flan-T5-XL's text encoder, within the whole model",
        "Apache-2.0",
        Snapshot(
            "google/flan-t5-xl",
            (
                File("model.safetensors.index.json"),
                File("model-00001-of-00002.safetensors", "9.45 GB"),
                File("model-00002-of-00002.safetensors", "1.95 GB"),
                File("config.json"),
                File("tokenizer.json"),
            ),
            "7d6315df2c2fb742f0f5b556879d730926ca9001",
        ),
        use='a generator\'s: `text_encoder="flan-t5-xl"`',
    ),
)
