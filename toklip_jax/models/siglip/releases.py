"""SigLIP 2's published weights, and the text tokenizer that all sizes and TokLIP share."""

from toklip_jax.models.releases import File, Release, Snapshot
from toklip_jax.models.siglip.sizes import TOKENIZER

LICENCE = "Apache-2.0"
USE = "TokLIP's training starts from it: `--config.toklip.init.teacher=PATH`"
GEMMA_TOKENIZER = Snapshot(TOKENIZER, (File("tokenizer.json", "34.4 MB"),))

RELEASES = (
    Release(
        "siglip2-so400m-16-256",
        "SigLIP 2 So400m, 256 px, in open_clip's names",
        LICENCE,
        Snapshot(
            "timm/ViT-SO400M-16-SigLIP2-256", (File("open_clip_model.safetensors", "4.54 GB"),)
        ),
        use=USE,
    ),
    Release(
        "siglip2-so400m-16-384",
        "SigLIP 2 So400m, 384 px, in open_clip's names",
        LICENCE,
        Snapshot(
            "timm/ViT-SO400M-16-SigLIP2-384",
            (File("open_clip_model.safetensors"),),
            "fec784dabb3081a5f101fc74eefaf9d1ed08237b",
        ),
        use=USE,
    ),
    Release(
        "siglip2-so400m-16-256-hf",
        "SigLIP 2 So400m, 256 px, in Hugging Face's names",
        LICENCE,
        Snapshot(
            "google/siglip2-so400m-patch16-256",
            (File("model.safetensors"),),
            "e8708ab72d125807e45b36fb7d4e0aacbb59f379",
        ),
        use=USE,
    ),
    Release(
        "siglip2-so400m-16-512-hf",
        "SigLIP 2 So400m, 512 px, in Hugging Face's names",
        LICENCE,
        Snapshot(
            "google/siglip2-so400m-patch16-512",
            (File("model.safetensors", "4.55 GB"),),
            "ceea1cba8130d8271436da4828633198c176a775",
        ),
        use=USE,
    ),
)
