"""Outputs: a registry, each computed once, of ids of any shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import (
    Context,
    available_outputs,
    base,
    compute_outputs,
    present_outputs,
    register_output,
    text_space_outputs,
)
from toklip_jax.evaluation.outputs.codes import ids, restored
from toklip_jax.nn.config import Compute

COMPUTE = Compute(is_scanned=False)


@pytest.fixture
def models(toy):
    return Models.from_configs(COMPUTE, {"vq": toy.config})


@pytest.fixture
def images(toy):
    return np.random.default_rng(0).integers(0, 256, (5, *toy.size, 3), np.uint8)


@pytest.fixture
def registry(monkeypatch):
    """The registry, whose new outputs are forgotten after the test."""
    monkeypatch.setattr(base, "_OUTPUTS", dict(base._OUTPUTS))


def compute(names, models, toy, **batch):
    run = jax.jit(lambda params, batch: compute_outputs(names, models, None, params, batch))
    return run({"vq": toy.params}, batch)


def test_two_ids_a_place_on_a_grid_that_is_no_square(models, toy, images):
    rows = compute(("ids", "code", "psnr", "ssim"), models, toy, images=images)
    assert rows["ids"].shape == (5, 6, 2)
    assert rows["code"].shape == (5, toy.config.code_dim)
    assert np.isfinite(rows["psnr"]).all()
    assert rows["ssim"].shape == (5,)
    again = compute(("code",), models, toy, ids=np.asarray(rows["ids"]))
    np.testing.assert_array_equal(again["code"], rows["code"])


def test_an_intermediate_is_computed_once(models, toy, images):
    context = Context(models, {"vq": toy.params}, {"images": jnp.asarray(images)})
    assert context.get(restored) is context.get(restored)
    assert set(context._computed) >= {ids, restored}


@pytest.mark.usefixtures("registry")
def test_another_package_adds_an_output(models, toy, images):
    @register_output("brightness", pixels="original")
    def brightness(context):
        return context.batch["images"].astype("float32").mean(axis=(1, 2, 3))

    @register_output("ids_of_first_place", needs=("vq",))
    def first(context):
        return context.get(ids)[:, 0]

    rows = compute(("brightness", "ids_of_first_place", "ids"), models, toy, images=images)
    np.testing.assert_allclose(rows["brightness"], images.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(rows["ids_of_first_place"], rows["ids"][:, 0])


@pytest.mark.usefixtures("registry")
def test_features_of_another_model_join_those_compared_with_texts():
    @register_output("other", needs=("other",), text_space="another model")
    def other(context):
        return context.apply("other", None, context.batch["images"])

    assert text_space_outputs() == {
        "teacher": "teacher",
        "image": "TokLIP",
        "other": "another model",
    }


@pytest.mark.usefixtures("registry")
def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="expected a new name for an output, got 'ids' twice"):
        register_output("ids")(lambda context: None)


def test_outputs_whose_models_are_missing_are_left_out(models):
    assert present_outputs(models, ("labels", "ids", "image", "inception_restored")) == (
        "labels",
        "ids",
    )
    with pytest.raises(ValueError, match="expected a model for the evaluation mine, got none"):
        available_outputs(models, ("image", "teacher"), "mine")
    with pytest.raises(ValueError, match="did you mean 'psnr'"):
        present_outputs(models, ("psn",))
