"""LlamaGen's published VQ tokenizers, and the repositories that its GPTs are in too."""

from typing import Any

from toklip_jax.models.releases import File, Release, Snapshot

LICENCE = "MIT"
# The commits that added the files; their messages hold sizes and hashes.
CLASSES = "FoundationVision/LlamaGen", "dc1fec543f6ac82e0cb9bbed058d5eaa26a30e6e"
TEXTS = "peizesun/llamagen_t2i", "276f5c5a3d915b922899a03f1912605531574747"


def release(name: str, title: str, source: tuple[str, str], file: File, **others: Any) -> Release:
    """Returns the release of one file of `CLASSES` or `TEXTS`; `others` as `Release`."""
    repository, revision = source
    return Release(name, title, LICENCE, Snapshot(repository, (file,), revision), **others)


VQ_16_C2I = File(
    "vq_ds16_c2i.pt",
    287_920_306,
    "109aa8afb2cf3761eec23cdc8644154cb498f5ab7eef2a35264d25e5e0499f7d",
)
VQ_8_C2I = File(
    "vq_ds8_c2i.pt", "281 MB", "c70d2966ec012f378793214ff0755087e7c5fe6f035b469995143325dca4a4e3"
)
VQ_16_T2I = File(
    "vq_ds16_t2i.pt",
    287_920_306,
    "0e21fc1318e2e9ee641a07bdad0e20675e9ec35e6e3eb911d58b5d7a2cd8d4cb",
)

RELEASES = (
    release("llamagen-vq-16-c2i", "LlamaGen VQ-16, ImageNet", CLASSES, VQ_16_C2I),
    release("llamagen-vq-8-c2i", "LlamaGen VQ-8, ImageNet", CLASSES, VQ_8_C2I),
    release("llamagen-vq-16-t2i", "LlamaGen VQ-16, captions; TokLIP's", TEXTS, VQ_16_T2I),
)
