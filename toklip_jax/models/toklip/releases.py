"""TokLIP's published weights."""

from toklip_jax.models.releases import File, Release, Snapshot
from toklip_jax.models.siglip.releases import GEMMA_TOKENIZER

REPOSITORY = "TencentARC/TokLIP"
LICENCE = "License Terms of TokLIP: not for use within the European Union"
LICENCE_PAGE = "https://github.com/TencentARC/TokLIP/blob/main/LICENSE"


def _release(name, title, file):
    return Release(
        name,
        title,
        LICENCE,
        Snapshot(REPOSITORY, (file,)),
        tokenizer=GEMMA_TOKENIZER,
        licence_page=LICENCE_PAGE,
    )


RELEASES = (
    _release("toklip-s-256", "TokLIP-S, 256 px", File("TokLIP_S_256.pt", "8.31 GB")),
    _release("toklip-l-384", "TokLIP-L, 384 px", File("TokLIP_L_384.pt", "8.31 GB")),
    _release("toklip-xl-512", "TokLIP-XL, 512 px, on IBQ", File("TokLIP_XL_512.pt", "9.44 GB")),
)
