"""The table of rules; that a mesh changes no result is for `test_main`'s eight devices."""

import flax.traverse_util
import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jax.sharding import PartitionSpec as P

from toklip_jax.models.build import init_params
from toklip_jax.models.config import Compute
from toklip_jax.models.sizes import TOKLIP_SIZES
from toklip_jax.sharding import AXES, make_mesh, put_batch, shardings
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.step import create_state

SIZE = TOKLIP_SIZES["toklip_s_256"]


def abstract_mesh(data, fsdp, tensor):
    return AbstractMesh((data, fsdp, tensor), AXES, (AxisType.Auto,) * 3)


def specs(tree, mesh):
    flat = jax.tree_util.tree_leaves_with_path(shardings(tree, mesh))
    return {"/".join(str(getattr(k, "key", k)) for k in path): s.spec for path, s in flat}


@pytest.fixture(scope="module")
def params():
    compute = Compute(is_scanned=True)
    return jax.eval_shape(lambda rng: init_params(SIZE, compute, rng), jax.random.key(0))


def test_large_parameters_lie_over_fsdp_and_tensor(params):
    mesh = abstract_mesh(2, 4, 2)
    found = specs(params, mesh)
    blocks = "token_encoder/stack/blocks"
    assert found[f"{blocks}/attn/qkv/kernel"] == P(None, "fsdp", None, "tensor", None)
    assert found[f"{blocks}/mlp/fc1/kernel"] == P(None, "fsdp", "tensor")
    assert found[f"{blocks}/mlp/fc2/kernel"] == P(None, "tensor", "fsdp")
    assert found["text_tower/token_embed"] == P("tensor", "fsdp")
    whole = [
        name
        for name, leaf in flat(params).items()
        if found[name] == PartitionSpec() and leaf.size > 2**20 and not name.startswith("vq/")
    ]
    assert not whole  # nothing of a million numbers is on every device, the VQ's kernels aside


def test_an_axis_that_does_not_divide_is_dropped(params):
    found = specs(params, abstract_mesh(1, 1, 5))  # 16 heads and 4304 hidden units on 5 devices
    blocks = "token_encoder/stack/blocks"
    assert found[f"{blocks}/attn/qkv/kernel"] == P(None, "fsdp", None, None, None)
    assert found[f"{blocks}/mlp/fc1/kernel"] == P(None, "fsdp", None)


def test_optimizer_state_lies_as_its_parameters_do(params):
    mesh = abstract_mesh(2, 2, 2)
    encoder = params["token_encoder"]
    state = jax.eval_shape(lambda p: create_state(p, OptimizerConfig(ema_decay=0.9), 10), encoder)
    lies = shardings(state, mesh)
    own = jax.tree.leaves(lies.params)
    for copy in (lies.ema, lies.opt_state[0].mu, lies.opt_state[0].nu):
        assert jax.tree.leaves(copy) == own
    assert any(sharding.spec != PartitionSpec() for sharding in own)


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 0}, {"data": -1, "fsdp": -1}])
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes):
    with pytest.raises(ValueError, match="expected mesh sizes that multiply to 1 devices"):
        make_mesh(sizes, jax.devices()[:1])


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match=r"got \['model'\] as well"):
        make_mesh({"data": 1, "model": 1})


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="expected a batch size divisible by 4"):
        put_batch({"x": np.zeros((6, 2))}, abstract_mesh(2, 2, 1))


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")
