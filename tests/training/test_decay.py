"""Which parameters decay: those of two dimensions or more, whatever their names and layout."""

import jax
import numpy as np
import pytest

from toklip_jax.training.optimizer import OptimizerConfig, decay_mask


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("stacked", [(), (3,)])
def test_vectors_do_not_decay_whatever_they_are_called(stacked):
    names = "stack/blocks" if stacked else "stack/blocks_0"
    block = {
        "attn": {
            "query": {"kernel": zeros(*stacked, 8, 2, 4), "bias": zeros(*stacked, 2, 4)},
            "out": {"kernel": zeros(*stacked, 2, 4, 8), "shift": zeros(*stacked, 8)},
        },
        "norm": {"scale": zeros(*stacked, 8)},
        "gamma": zeros(*stacked, 8),  # as in layer scale
        "gate": zeros(*stacked),
        "latent": zeros(*stacked, 1, 8),
    }
    stack, name = names.split("/")
    mask = decay_mask({"tower": {stack: {name: block}}})["tower"][stack][name]
    decayed = {jax.tree_util.keystr(p) for p, x in jax.tree_util.tree_leaves_with_path(mask) if x}
    assert decayed == {
        "['attn']['query']['kernel']",
        "['attn']['out']['kernel']",
        "['latent']",
    }


def test_tables_decay_and_numbers_do_not():
    params = {
        "logit_scale": zeros(),
        "logit_bias": zeros(1),
        "scale": zeros(4, 4),  # a matrix, though its name is a vector's elsewhere
        "pos_embed": zeros(16, 8),
    }
    mask = decay_mask(params)
    assert {name for name, decays in mask.items() if decays} == {"scale", "pos_embed"}
    beside = {"kernel": zeros(8, 2, 4), "adapter": zeros(8, 3), "bias": zeros(2, 4)}
    assert decay_mask(beside) == {"kernel": True, "adapter": True, "bias": False}


@pytest.mark.parametrize("value", [1e39, float("inf"), float("nan"), -1.0])
def test_numbers_that_float32_cannot_hold_are_refused(value):
    with pytest.raises(ValueError, match="learning_rate of at least 0 that float32 can hold"):
        OptimizerConfig(learning_rate=value)
