"""Frozen parameters are kept in the compute type, but for numbers and what a family keeps exact."""

import jax.numpy as jnp
import numpy as np

from toklip_jax.nn.config import Compute
from toklip_jax.training.state import cast_frozen


def test_numbers_are_not_rounded():
    frozen = {
        "logit_scale": jnp.float32(np.log(100.0)),
        "tower": {"gate": jnp.float32(-16.77), "kernel": jnp.ones((4, 4), jnp.float32)},
        "exact": {"table": jnp.full((2, 2), 0.1, jnp.float32)},
    }
    kept = cast_frozen(frozen, Compute(dtype="bfloat16"), full_precision=("exact/.*",))
    assert kept["tower"]["kernel"].dtype == jnp.bfloat16
    assert np.exp(float(kept["logit_scale"])) == np.exp(float(frozen["logit_scale"]))
    assert float(kept["tower"]["gate"]) == float(frozen["tower"]["gate"])
    np.testing.assert_array_equal(kept["exact"]["table"], frozen["exact"]["table"])
