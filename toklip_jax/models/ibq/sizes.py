"""The published sizes of IBQ's tokenizers."""

from toklip_jax.models.ibq.config import IBQConfig

SIZES = {f"ibq_{size}": IBQConfig(size) for size in (1024, 8192, 16_384, 262_144)}
IBQ_262144 = SIZES["ibq_262144"]
