"""UniTok's published weights."""

from toklip_jax.models.releases import File, Release, Snapshot

RELEASES = (
    Release(
        "unitok",
        "UniTok, 8 codebooks of 4,096 codes, 256 px",
        "MIT by its code, Apache-2.0 by its page",
        Snapshot("FoundationVision/unitok_tokenizer", (File("unitok_tokenizer.pth", "3.31 GB"),)),
        options={"is_causal": False},  # as it is since April 2025
    ),
)
