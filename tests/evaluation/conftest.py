"""The toy tokenizer: two ids a place, a 3 x 2 grid, no codebook."""

import pathlib
import sys
import types

import jax
import numpy as np
import pytest

from toklip_jax.models.registry import init_params
from toklip_jax.nn.config import Compute

TOY = pathlib.Path(__file__).parents[1] / "toy"


@pytest.fixture(scope="session")
def toy():
    """Returns its `config`, its `params`, and the `size` of its images."""
    if str(TOY) not in sys.path:
        sys.path.append(str(TOY))
    import toy_tokenizer

    config = toy_tokenizer.SignConfig()
    init = jax.jit(lambda key: init_params(config, Compute(is_scanned=False), key))
    params = jax.tree.map(np.asarray, init(jax.random.key(0)))
    return types.SimpleNamespace(config=config, params=params, size=(24, 16))
