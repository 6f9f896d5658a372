"""Peak rates and memory of accelerators, for rooflines and utilisation.

TPU figures are from Google Cloud's pages for each version (docs.cloud.google.com/tpu/docs/v4, v5e,
v5p, v6e), GPU figures from NVIDIA's data sheets (dense, not sparse, SXM boards). TPU memory is
printed there in GB and means 2^30 bytes; XLA keeps a little of it for itself.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip.

    Attributes:
        name: a name for people to read.
        bf16_flops: FLOP/s of bfloat16 matrix products.
        hbm_bytes: memory.
        hbm_bandwidth: bytes/s.
        interconnect: bytes/s out of the chip over all its links, one direction.
        float32_passes: bfloat16 products that one float32 product at highest precision costs.
    """

    name: str
    bf16_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    interconnect: float
    float32_passes: float = 6.0  # TPU: three bfloat16 parts a side, the six largest cross terms


# By `jax.Device.device_kind`.
CHIPS = {
    # 275 TFLOP/s, 32 GiB, 1200 GB/s; 6 links of 50 GB/s (Jouppi et al. 2023, table 4).
    "TPU v4": Chip("TPU v4", 275e12, 32 * GIB, 1200e9, 300e9),
    # 197 TFLOP/s, 16 GB, 819 GB/s; 1600 Gbit/s ("bidirectional 400 GB/s").
    "TPU v5 lite": Chip("TPU v5e", 197e12, 16 * GIB, 819e9, 200e9),
    # 459 TFLOP/s, 95 GB, 2765 GB/s; 4800 Gbit/s.
    "TPU v5": Chip("TPU v5p", 459e12, 95 * GIB, 2765e9, 600e9),
    # 918 TFLOP/s, 32 GB, 1600 GB/s; 3200 Gbit/s.
    "TPU v6 lite": Chip("TPU v6e", 918e12, 32 * GIB, 1600e9, 400e9),
    # A100 data sheet: 312 TFLOP/s, float32 19.5; 1555 or 2039 GB/s; NVLink 600 GB/s both ways.
    "NVIDIA A100-SXM4-40GB": Chip("A100 40 GB", 312e12, 40 * 10**9, 1555e9, 300e9, 16.0),
    "NVIDIA A100-SXM4-80GB": Chip("A100 80 GB", 312e12, 80 * 10**9, 2039e9, 300e9, 16.0),
    # H100 data sheet: 989.4 TFLOP/s, float32 67; 3.35 TB/s; NVLink 900 GB/s both ways.
    "NVIDIA H100 80GB HBM3": Chip("H100", 989.4e12, 80 * 10**9, 3350e9, 450e9, 14.8),
    # H200 data sheet: H100's rates; 141 GB, 4.8 TB/s.
    "NVIDIA H200": Chip("H200", 989.4e12, 141 * 10**9, 4800e9, 450e9, 14.8),
}

# Names in other versions of libtpu.
ALIASES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}


def chip(device_kind: str) -> Chip | None:
    """Returns the chip that `jax.Device.device_kind` names, or None if it isn't in the table."""
    return CHIPS.get(ALIASES.get(device_kind, device_kind))
