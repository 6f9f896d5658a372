"""Where training scripts keep their weights, and what wrappers do to the names."""

import pathlib

import numpy as np
import pytest

from toklip_jax.weights.containers import find_weights

RAW = {"a.weight": np.zeros(3), "b": np.zeros(2)}
MEAN = {"a.weight": np.ones(3), "b": np.ones(2)}
ONE = np.array(71.2, np.float32)


def find(tree, is_ema=None):
    return find_weights(tree, pathlib.Path("file"), is_ema)


def same(got, want):
    return got.keys() == want.keys() and all(got[name] is want[name] for name in want)


CONTAINERS = """
state_dict model model_state_dict module net weights params student trainer unitok
ema model_ema ema_model state_dict_ema params_ema ema_state_dict
"""


@pytest.mark.parametrize("container", CONTAINERS.split())
def test_every_container_is_opened_and_what_lies_beside_it_is_told(container):
    found = find({"best_acc1": ONE, "epoch": 3, container: RAW, "decay": 0.99, "optimizer": {}})
    assert same(found.tensors, RAW)
    assert set(found.dropped) == {"best_acc1", "epoch", "decay", "optimizer"}
    assert container in found.taken
    assert container in found.dropped["best_acc1"]


def test_containers_within_containers():
    found = find({"step": ONE, "ema": {"decay": ONE, "module": {"state_dict": RAW, "n": 1}}})
    assert same(found.tensors, RAW)
    assert found.taken == "the running mean in ema.module.state_dict"
    assert set(found.dropped) == {"step", "ema.decay", "ema.module.n"}


def test_unitoks_weights_lie_beside_a_discriminators_in_its_trainer():
    trainer = {"unitok": RAW, "disc": {"c": ONE}, "optimizer": {"state": {}}}
    found = find({"args": {"model": "vitamin_large"}, "epoch": 3, "trainer": trainer})
    assert same(found.tensors, RAW)
    assert found.taken == "those in trainer.unitok"
    assert set(found.dropped) == {"args", "epoch", "trainer.disc", "trainer.optimizer"}


def test_weights_beside_a_small_container_stay_the_weights():
    found = find(RAW | {"ema": {"decay": ONE}})
    assert same(found.tensors, RAW)
    assert found.dropped == {"ema": "no tensor (dict)"}
    found = find({"ema": {"decay": ONE}, "model": RAW | {"c": ONE}})
    assert set(found.tensors) == {"a.weight", "b", "c"}


@pytest.mark.parametrize(
    ("raw", "mean"), [("state_dict", "state_dict_ema"), ("model", "ema"), ("net", "params_ema")]
)
def test_the_running_mean_is_taken_unless_the_raw_weights_are_asked_for(raw, mean):
    for tree in ({raw: RAW, mean: MEAN}, {"model": {mean: MEAN, raw: RAW}}):
        found = find(tree)
        assert same(found.tensors, MEAN)
        assert found.is_choice
        assert f"the running mean in {'model.' * (tree.keys() == {'model'})}{mean}" == found.taken
        assert same(find(tree, is_ema=True).tensors, MEAN)
        assert same(find(tree, is_ema=False).tensors, RAW)
        assert not find(tree, is_ema=False).is_choice
    with pytest.raises(ValueError, match="expected a running mean of weights in file"):
        find({raw: RAW}, is_ema=True)
    with pytest.raises(ValueError, match="expected raw weights in file, found a running mean"):
        find({mean: MEAN}, is_ema=False)
    assert same(find(RAW, is_ema=False).tensors, RAW)


@pytest.mark.parametrize(
    "name",
    [
        "module.a.weight",
        "module.module.a.weight",
        "_orig_mod.a.weight",
        "a._orig_mod.weight",
        "_forward_module.a.weight",
        "module._forward_module.a._fsdp_wrapped_module._orig_mod.weight",
        "_fsdp_wrapped_module.a._checkpoint_wrapped_module.weight",
    ],
)
def test_wrappers_leave_no_trace_in_names(name):
    assert same(find({name: ONE}).tensors, {"a.weight": ONE})


def test_names_that_only_look_like_wrappers_stay():
    names = {"a.module.weight", "my_orig_mod.weight", "model.weight"}
    assert set(find(dict.fromkeys(names, ONE)).tensors) == names
    with pytest.raises(ValueError, match="expected each tensor once in file, got a twice"):
        find({"module.a": ONE, "_orig_mod.a": ONE})


def test_dicts_that_hold_themselves_end():
    tree = {"model": {"b": ONE}, "c": ONE}
    tree["model"]["model"] = tree
    assert set(find(tree).tensors) == {"b"}
    empty = {}
    empty["model"] = empty
    for nothing in (empty, {"model": {"epoch": 1}}, [], 5, {}):
        with pytest.raises(ValueError, match="expected named tensors in file, found none"):
            find(nothing)
