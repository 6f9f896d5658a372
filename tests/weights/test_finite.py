"""Weights that are not finite are never written, whoever writes them, and nothing is left of it."""

import ml_dtypes
import numpy as np
import pytest

from toklip_jax.models.toklip.sizes import SIZES
from toklip_jax.weights import Weights, save_weights
from toklip_jax.weights.checks import expect_finite
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.writer import write_checkpoint


def test_save_weights_names_the_parameter_and_leaves_nothing(tmp_path):
    bad = np.ones((2, 3), np.float32)
    bad[1, 1] = np.nan
    params = {"tower": {"good": np.ones(2, np.float32), "bad": bad}}
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 tensors \(tower/bad\)"):
        save_weights(tmp_path / "weights", Weights(SIZES["tiny"], params, is_scanned=False))
    assert list(tmp_path.iterdir()) == []


def test_a_pytorch_file_of_them_is_refused_too(tmp_path):
    params = {"token_encoder": {"norm": {"scale": np.array([1.0, np.inf], np.float32)}}}
    tensors = export_tensors(Weights(SIZES["tiny"], params, is_scanned=False))
    with pytest.raises(ValueError, match="token_encoder/norm/scale"):
        write_checkpoint(tmp_path / "out.safetensors", tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.bool_])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2**11, 2**10 + 1)])
def test_all_types_and_layouts_are_checked(dtype, shape):
    array = np.ones(shape, dtype)
    expect_finite({"x": array})
    expect_finite({"x": array.T})
    if array.size and not np.issubdtype(dtype, np.integer) and dtype != np.bool_:
        array[(-1,) * array.ndim] = -np.inf
        for view in (array, array.T):
            with pytest.raises(ValueError, match=r"1 tensors \(x\)"):
                expect_finite({"x": view})
