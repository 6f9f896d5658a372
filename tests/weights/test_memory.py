"""No second copy of a model comes into a host's memory when it is loaded or saved."""

import dataclasses
import pathlib

import pytest

from benchmarks import language_model_memory, loading
from toklip_jax.models.qwen.config import QwenConfig
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.toklip.sizes import SIZES

NOISE = 24 * 2**20  # bytes that the interpreter, XLA and the allocator take meanwhile
LARGEST = 20 * 2**20  # bytes of one tensor, and of slices of the file that are being read
CAN_MEASURE = pathlib.Path("/proc/self/clear_refs").exists()

pytestmark = pytest.mark.skipif(not CAN_MEASURE, reason="NOT CHECKED: needs Linux's /proc")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A directory of about 260 MB of weights, no tensor of more than 5 MB; and their bytes."""
    tower = {"width": 512, "num_heads": 8, "mlp_dim": 2048, "depth": 10}
    config = dataclasses.replace(
        SIZES["tiny"],
        vision=VisionConfig(**tower, is_causal=True, image_size=64, patch_size=16),
        text=TextConfig(**tower, vocab_size=512, context_length=16),
    )
    path = tmp_path_factory.mktemp("memory") / "weights"
    return path, loading.write(path, config)


@pytest.mark.parametrize("name", loading.CASES)
def test_the_peak_is_the_parameters_and_one_tensor(name, weights):
    path, size = weights
    _, peak, kept = loading.peak(path, name)
    assert kept > 0.9 * size / (2 if "bfloat16" in name else 1)
    limit = LARGEST + NOISE + (0 if name.startswith("save") else kept)
    assert peak < limit, f"{peak / 2**20:.0f} MiB for parameters of {kept / 2**20:.0f} MiB"


def test_a_large_embedding_of_a_language_model_is_not_held_twice(tmp_path):
    config = QwenConfig(256, 2, 4, 2, 512, vocab_size=200_000)
    count = language_model_memory.write(tmp_path / "weights", config)
    assert len(list((tmp_path / "weights").glob("*.safetensors"))) > 1
    for dtype, size in language_model_memory.DTYPES.items():
        embedding = size * config.vocab_size * config.width
        peak = language_model_memory.peak(tmp_path / "weights", dtype)
        assert peak > 0.9 * size * count
        assert peak - size * count < LARGEST + NOISE < embedding, dtype
