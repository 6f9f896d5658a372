"""FID's Inception: every key of the published file, and torch-fidelity's outputs for such weights.

The weights are drawn here as they were for the recording (see tests/golden/README.md).
"""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.cli.convert import main
from toklip_jax.files import write_safetensors
from toklip_jax.models.inception.config import InceptionConfig
from toklip_jax.models.inception.model import Inception
from toklip_jax.models.registry import param_shapes
from toklip_jax.weights import save_weights
from toklip_jax.weights.read import read_weights


def draw(index, name, shape):
    random = np.random.default_rng([7, index])
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith(("running_var", "bn.weight")):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    std = math.sqrt(2 / math.prod(shape[1:])) if name.endswith("conv.weight") else 0.1
    return (std * random.standard_normal(shape, np.float32)).astype(np.float32)


@pytest.fixture(scope="module")
def tensors(golden):
    keys = json.loads(golden("inception/keys.json").read_text())
    return {name: draw(i, name, shape) for i, (name, shape) in enumerate(keys.items())}


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    write_safetensors(path, tensors)
    return path


def images():
    values = np.random.default_rng(8).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)
    return jnp.asarray(values, jnp.float32) / 127.5 - 1


@pytest.mark.recorded
def test_features_are_torch_fidelitys(file, tensors, golden, record_property):
    weights, want = read_weights(file), np.load(golden("inception/outputs.npz"))
    assert weights.config == InceptionConfig(num_classes=1008)
    model = Inception(weights.config)
    got = jax.jit(lambda params, x: model.apply({"params": params}, x))(weights.params, images())
    # torch's own float32 is off its float64 by 1.1e-5, of values up to 44.
    for name, have, atol in (
        ("pool", got.pool, 5e-5),
        ("spatial", got.spatial[:1], 5e-5),
    ):
        record_property(f"largest error of {name}", float(np.abs(have - want[name]).max()))
        np.testing.assert_allclose(have, want[name], atol=atol)
    logits = want["pool"].astype(np.float64) @ tensors["fc.weight"].T  # ADM's: without the bias
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got.probabilities, probabilities, rtol=1e-3, atol=1e-7)
    assert got.pool.shape == (2, weights.config.pool_dim)
    assert got.spatial.shape == (2, weights.config.spatial_dim) == (2, 2023)


def test_the_whole_key_list_goes_in_and_out_equal_to_the_bit(file, tensors, tmp_path, capsys):
    arguments = [str(file), str(tmp_path / "jax")]
    assert main(["to-jax", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "fc.bias: the classifier's bias, which the inception score leaves out" in printed
    weights = read_weights(tmp_path / "jax")
    assert weights.config == InceptionConfig(num_classes=1008)
    carried = {name for name in tensors if name.endswith("tracked") or name == "fc.bias"}
    assert set(weights.carried) == carried
    assert len(param_shapes(weights.config)) + len(carried) == len(tensors) == 566
    assert main(["verify", *arguments]) == 0
    assert "bit-exact: 566 tensors" in capsys.readouterr().out
    assert main(["inspect", arguments[0]]) == 0
    assert "FID's Inception v3" in capsys.readouterr().out


def test_the_counters_of_batches_may_be_missing(tensors, tmp_path):
    """As in the published file, which comes from the graph and not from training in torch."""
    named = {k: v for k, v in small(tensors).items() if not k.endswith("num_batches_tracked")}
    write_safetensors(tmp_path / "small.safetensors", named)
    weights = read_weights(tmp_path / "small.safetensors")
    assert weights.config == InceptionConfig(divisor=16, num_classes=1008)
    assert set(weights.carried) == {"fc.bias"}


def test_weights_without_the_classifier_go_out_again(tensors, tmp_path):
    """Those that were converted before the inception score read it."""
    write_safetensors(tmp_path / "small.safetensors", small(tensors))
    weights = read_weights(tmp_path / "small.safetensors")
    classifier = np.asarray(weights.params["classifier"]).T
    params = {name: value for name, value in weights.params.items() if name != "classifier"}
    before = dataclasses.replace(
        weights,
        config=dataclasses.replace(weights.config, num_classes=0),
        params=params,
        carried=dict(weights.carried) | {"fc.weight": classifier},
    )
    save_weights(tmp_path / "before", before)
    assert main(["to-torch", str(tmp_path / "before"), str(tmp_path / "out.safetensors")]) == 0
    again = read_weights(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(again.params["classifier"], weights.params["classifier"])


def test_torchvisions_inception_and_foreign_keys_are_refused(tensors, tmp_path):
    cases = (
        ({"fc.weight": np.zeros((1000, 128), np.float32)}, "another with 1000"),
        ({"AuxLogits.fc.bias": np.zeros(1000, np.float32)}, "expected FID's Inception v3"),
        ({"Mixed_5b.branch9x9.conv.weight": np.zeros((4, 4, 1, 1), np.float32)}, "unknown: "),
        ({"Mixed_6b.branch1x1.bn.bias": np.zeros(5, np.float32)}, r"misshaped: .*\(12,\)"),
    )
    for i, (change, message) in enumerate(cases):
        path = tmp_path / f"{i}.safetensors"
        write_safetensors(path, small(tensors) | change)
        with pytest.raises(ValueError, match=message):
            read_weights(path)


def test_the_config_says_the_features_sizes():
    for size in (75, 96, 139, 299):
        config = InceptionConfig(image_size=size, divisor=16)
        shapes = jax.eval_shape(
            lambda rng, config=config: Inception(config).init_with_output(
                rng, jnp.zeros((3, 8, 8, 3))
            )[0],
            jax.random.key(0),
        )
        assert shapes.pool.shape == (3, config.pool_dim) == (3, 128)
        assert shapes.spatial.shape == (3, config.spatial_dim)
    with pytest.raises(ValueError, match="at least 75"):
        InceptionConfig(image_size=74)


def test_images_are_rounded_to_the_nearest_of_256_values_and_clipped(tensors, tmp_path):
    write_safetensors(tmp_path / "small.safetensors", small(tensors))
    params = read_weights(tmp_path / "small.safetensors").params
    config = InceptionConfig(image_size=75, divisor=16, num_classes=1008)
    model, values = Inception(config), np.arange(256.0)
    x = jnp.asarray(np.broadcast_to(values[None, :, None, None], (1, 256, 2, 3)) / 127.5 - 1)
    features = jax.jit(lambda x: model.apply({"params": params}, x).pool)
    want = features(x)
    np.testing.assert_array_equal(features(x + 0.49 / 127.5), want)
    np.testing.assert_array_equal(features(x - 0.49 / 127.5), want)
    assert np.abs(features(x + 0.51 / 127.5) - want).max() > 1e-4
    np.testing.assert_array_equal(features(jnp.full_like(x, 1.5)), features(jnp.ones_like(x)))


def small(tensors):
    """The same names with a sixteenth of the widths, so four times the standard deviations."""
    names = {}
    for name, array in tensors.items():
        cut = [max(length // 16, 1) for length in array.shape[:2]]
        if name.endswith("conv.weight") and array.shape[1] == 3:
            cut[1] = 3
        if name.startswith("fc."):
            cut = [1008, 128][: array.ndim]
        gain = 4 if name.endswith("conv.weight") and cut[1] != 3 else 1
        names[name] = gain * np.ascontiguousarray(array[tuple(slice(n) for n in cut)])
    return names
