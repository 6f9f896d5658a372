"""IBQ's tokenizer equals its recordings; bounds as their README says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.stages import at, close, nhwc, run
from tests.models.vq_recordings import (
    LEVEL_ATOL,
    ROW_ATOL,
    decoder_is_recorded,
    encoder_is_recorded,
    flat,
    gradients_are_finite,
    recording,
    rows,
    ties_are_decided_as_recorded,
)
from toklip_jax.models.ibq.config import IBQConfig
from toklip_jax.nn.quantisers import InnerProductQuantiser
from toklip_jax.ops.nearest import nearest_code
from toklip_jax.ops.normalize import l2_normalize
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

FILE = "ibq_tiny/checkpoint.safetensors"


@pytest.fixture(scope="module")
def recorded(golden):
    return recording(golden, "ibq_tiny")


@pytest.fixture(scope="module")
def weights(golden):
    return read_weights(golden(FILE))


def test_its_sizes_are_told_by_its_shapes(weights):
    sizes = {"channels": 32, "multipliers": (1, 1, 1, 1, 2), "z_channels": 32}
    assert weights.config == IBQConfig(512, 32, **sizes)


def test_every_recorded_stage_is_met(weights, recorded):
    want, images, config = recorded
    out, inner = run(weights, images)
    np.testing.assert_array_equal(out.ids, flat(want["indices"]))
    assert want["margin"].min() > 4e-2  # so that equal ids are no luck
    encoder_is_recorded(inner, want)
    close(at(inner, "quant_conv").reshape(out.latents.shape), out.latents)
    decoder_is_recorded(inner, want)
    close(out.images, nhwc(want["decoded"]), LEVEL_ATOL)
    vectors, _ = run(weights, out.ids, "code_vectors")
    np.testing.assert_array_equal(vectors, rows(want["codebook_entry"]))
    close(vectors, rows(want["quant"]), ROW_ATOL)
    straight, _ = run(weights, images, "encode")
    np.testing.assert_array_equal(straight, vectors)  # through the straight-through estimator
    image, _ = run(weights, np.asarray(out.ids[:1]), "detokenize")
    close(image, nhwc(want["decoded_code"]), LEVEL_ATOL)
    want_losses = config["eval_losses"]
    # Of the three terms two are of weight 1, and one of weight beta; all have the same value.
    quant_loss = (2 + config["beta"]) * out.losses["codebook"].mean()
    np.testing.assert_allclose(quant_loss, want_losses["quant_loss"], 1e-5)
    np.testing.assert_allclose(out.losses["commitment"], out.losses["codebook"], 1e-6)
    between, _ = run(weights, out.latents, "between_rows")
    np.testing.assert_allclose(between["entropy"], want_losses["entropy_loss"], 1e-5)


def test_other_searches_give_the_other_ids_that_were_recorded(weights, recorded, golden):
    want, images, config = recorded
    ids, inner = run(weights, images, "tokenize")
    nearest, _ = run(read_weights(golden(FILE), family="taming"), images, "tokenize")
    np.testing.assert_array_equal(nearest, flat(want["wrong_l2_indices"]))
    assert np.sum(nearest != ids) == config["ids_that_differ_under_l2_lookup"]
    latents = at(inner, "quant_conv").reshape(-1, 32)
    codebook = jnp.asarray(weights.params["codebook"], jnp.float32)
    cosine = nearest_code(l2_normalize(latents), l2_normalize(codebook)).reshape(ids.shape)
    np.testing.assert_array_equal(cosine, flat(want["wrong_cos_indices"]))
    assert np.sum(cosine != ids) == config["ids_that_differ_under_cosine_lookup"]


def test_a_tie_goes_to_the_lowest_id(weights, recorded):
    want, images, config = recorded
    ties_are_decided_as_recorded(weights, images, want, config["tie_break"])


@pytest.mark.plain
def test_gradients_are_finite(weights, recorded):
    gradients_are_finite(weights, recorded[1][:2, :32, :32])


def test_the_gradient_is_that_of_a_one_hot_straight_through_all_codes():
    """(hard - sg(soft) + soft) @ codebook, as IBQ writes it, with its matrices of all scores."""
    quantiser = InnerProductQuantiser(40, 8)
    keys = jax.random.split(jax.random.key(0), 3)
    codebook, latents = jax.random.normal(keys[0], (40, 8)), jax.random.normal(keys[1], (2, 9, 8))
    pull = jax.random.normal(keys[2], latents.shape)

    def ours(codebook, latents):
        variables = {"params": {"codebook": codebook}}
        return jnp.sum(pull * quantiser.apply(variables, latents, method="train").vectors)

    def plain(codebook, latents):
        soft = jax.nn.softmax(latents @ codebook.T)
        hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), 40)
        return jnp.sum(pull * ((hard - jax.lax.stop_gradient(soft) + soft) @ codebook))

    got, want = (jax.value_and_grad(f, (0, 1))(codebook, latents) for f in (ours, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
