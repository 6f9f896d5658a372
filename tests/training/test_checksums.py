import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from toklip_jax.training import checksums as module
from toklip_jax.training.checksums import checksums

RNG = np.random.default_rng(0)
ARRAYS = [
    RNG.normal(size=(3, 5, 2)).astype(np.float32),
    RNG.normal(size=(4, 3)).astype(ml_dtypes.bfloat16),
    RNG.integers(-9, 9, 7).astype(np.int32),
    np.array([True, False, True]),
    np.float32(3),
    np.zeros((0, 2), np.float32),
]


@pytest.mark.parametrize("array", ARRAYS[:5], ids=lambda x: f"{x.dtype}{x.shape}")
def test_every_single_flipped_bit_changes_the_checksum(array):
    (want,) = checksums([array])
    data = np.asarray(array).tobytes()
    positions = range(8 * len(data)) if array.dtype != bool else range(0, 8 * len(data), 8)
    for bit in positions:
        other = bytearray(data)
        other[bit // 8] ^= 1 << bit % 8
        flipped = np.frombuffer(bytes(other), array.dtype).reshape(array.shape)
        assert checksums([flipped]) != [want], bit


def test_swapped_and_zeroed_parts_change_it_too():
    x = ARRAYS[0]
    zeroed = np.where(np.arange(3)[:, None, None] > 0, x, np.float32(0))
    assert len(set(checksums([x, x[::-1], x[:, [1, 0, 2, 3, 4]], zeroed]))) == 4


def test_devices_and_host_compute_the_same(monkeypatch):
    want = checksums(ARRAYS)
    monkeypatch.setattr(module, "_is_on_host", lambda array: False)
    assert checksums([jnp.asarray(array) for array in ARRAYS]) == want


def test_blocks_on_the_host_change_no_checksum(monkeypatch):
    want = checksums(ARRAYS)
    monkeypatch.setattr(module, "HOST_BLOCK", 4)
    assert checksums(ARRAYS) == want


def test_sharding_changes_no_checksum():
    want = checksums([ARRAYS[0]])
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put(
        ARRAYS[0], jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None, "data"))
    )
    assert module._replicated([placed]) is not None
    assert checksums([placed]) == want
