"""Fast paths of the multimodal model equal the plain one, and what it refuses."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_multimodal import (
    CODES,
    COMPUTE,
    CONFIG,
    LANGUAGE_MODEL,
    TOKLIP,
    VISION,
    VOCABULARY,
    VQ,
    lines,
    params_of,
)
from toklip_jax.decoding import Sampling, row_keys
from toklip_jax.decoding.multimodal import draw_image_ids
from toklip_jax.models.llamagen import LlamaGenConfig
from toklip_jax.models.multimodal.config import MultimodalConfig
from toklip_jax.models.multimodal.model import Multimodal
from toklip_jax.nn.config import Compute
from toklip_jax.nn.lora import merged
from toklip_jax.weights import Weights
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.llava import llava_tensors, merge_lora, projector_params

SEEING = dataclasses.replace(TOKLIP, vision=dataclasses.replace(VISION, is_causal=False))

pytestmark = pytest.mark.usefixtures("highest_precision")

MODEL = Multimodal(CONFIG, COMPUTE)


@functools.partial(jax.jit, static_argnames=("method", "model"))
def apply(*inputs, method, model=MODEL, params=None):
    params = params_of() if params is None else params
    return model.apply({"params": params}, *inputs, method=method)


def test_places_through_the_batch_and_through_rows_give_the_same():
    batch = lines(2)
    inputs = apply(batch["image_ids"].reshape(4, 4), method="image_inputs")
    by_row = inputs.reshape(2, 2, 4, -1)
    places = batch["image_places"]
    through = np.where(places >= 0, places + 8 * np.arange(2)[:, None], -1)
    got = apply(batch["ids"], places, by_row, method="embed")
    np.testing.assert_array_equal(got, apply(batch["ids"], through, inputs, method="embed"))
    for row, t in zip(*np.nonzero(places >= 0), strict=True):
        image, token = divmod(int(places[row, t]), 4)
        np.testing.assert_array_equal(got[row, t], by_row[row, image, token])
    text = apply(batch["ids"], method="embed")
    np.testing.assert_array_equal(np.asarray(got)[places < 0], np.asarray(text)[places < 0])


def test_a_place_past_the_images_gives_nan():
    batch = lines(1, images=1)
    inputs = apply(batch["image_ids"][0], method="image_inputs")
    for given in (inputs, inputs[None]):
        got = apply(batch["ids"], batch["image_places"], given, method="embed")
        np.testing.assert_array_equal(np.isnan(got).any(-1), batch["image_places"] >= 4)


def test_packed_rows_equal_rows_alone():
    batch = lines(2)
    features = apply(batch["image_ids"].reshape(4, 4), method="image_inputs").reshape(2, 2, 4, -1)
    names = ("ids", "image_places", "segment_ids", "positions")
    ids, places, segments, positions = (batch[name] for name in names)
    packed = apply(ids, places, features, segments, positions, method="logits")
    for row in range(2):
        for segment in (1, 2):
            at = np.flatnonzero(segments[row] == segment)
            alone = apply(ids[row, at][None], places[row, at][None], features[row][None],
                          method="logits")  # fmt: skip
            np.testing.assert_allclose(packed[row, at], alone[0], atol=2e-5)


def test_gradients_of_packed_and_padded_rows_are_those_of_rows_alone():
    batch = jax.tree.map(jnp.asarray, lines(2))
    names = ("ids", "image_places", "segment_ids", "positions")
    ids, places, segments, positions = (batch[name] for name in names)
    by_segment = np.asarray(segments)
    is_text = (by_segment > 0) & (np.asarray(places) < 0)
    image_ids = batch["image_ids"].reshape(4, 4)

    def total(logits, row, at):
        """A function of the logits of text that has a gradient everywhere."""
        return jnp.sum(jnp.sin(logits)[is_text[row, at]])

    def packed(params):
        inputs = MODEL.apply({"params": params}, image_ids, method="image_inputs")
        inputs = inputs.reshape(2, 2, 4, -1)
        logits = MODEL.apply(
            {"params": params}, ids, places, inputs, segments, positions, method="logits"
        )
        return sum(total(logits[row], row, np.arange(ids.shape[1])) for row in range(2))

    def alone(params):
        inputs = MODEL.apply({"params": params}, image_ids, method="image_inputs")
        inputs, sums = inputs.reshape(2, 2, 4, -1), 0.0
        for row in range(2):
            for segment in (1, 2):
                at = np.flatnonzero(by_segment[row] == segment)
                logits = MODEL.apply({"params": params}, ids[row, at][None], places[row, at][None],
                                     inputs[row][None], method="logits")  # fmt: skip
                sums += total(logits[0], row, at)
        return sums

    params = jax.tree.map(jnp.asarray, params_of())
    got, want = (jax.jit(jax.grad(function))(params) for function in (packed, alone))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))


def test_right_padding_and_the_cache_change_nothing():
    """Rows of an image and then text: the text goes through the cache, id by id."""
    rng = np.random.default_rng(0)
    length, cut = 12, 7
    ids = rng.integers(0, VOCABULARY, (2, length), np.int32)
    places = np.full((2, length), -1, np.int32)
    places[0, 1:5], places[1, 2:6] = np.arange(4), np.arange(4)
    features = apply(rng.integers(0, CODES, (2, 4), np.int32), method="image_inputs")[:, None]
    x = apply(ids, places, features, method="embed")
    want = apply(x, method="hidden")
    padded = np.pad(x, ((0, 0), (0, 3), (0, 0)))
    segments = np.pad(np.zeros((2, length), np.int32), ((0, 0), (0, 3)), constant_values=-1)
    got = apply(padded, segments, method="hidden")[:, :length]
    np.testing.assert_allclose(got, want, atol=1e-5)

    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (2, length))
    left = np.pad(x[:, :cut], ((0, 0), (2, 0), (0, 0)))
    left_positions = np.pad(positions[:, :cut], ((0, 0), (2, 0)), constant_values=-1)
    cache = MODEL.init_cache(2, length + 2)
    output, cache = apply(left, cache, left_positions, method="prefill")
    np.testing.assert_allclose(output, want[:, cut - 1], atol=1e-5)
    for t in range(cut, length):
        output, cache = apply(ids[:, t], cache, positions[:, t], method="step")
        np.testing.assert_allclose(output, want[:, t], atol=1e-5)


def test_lora_merged_equals_lora_apart():
    ids = lines(2)["ids"]
    want = apply(ids, method="logits")
    flat = flax.traverse_util.flatten_dict(params_of()["language_model"], sep="/")
    names = [name for name in flat if name.endswith("lora_up")]
    assert len(names) == 7 * LANGUAGE_MODEL.depth  # q, k, v, proj, fc1, gate, fc2
    weights = merge_lora(Weights(CONFIG, params_of(), is_scanned=False))
    assert weights.config.lora_rank == 0
    model = Multimodal(weights.config, COMPUTE)
    got = apply(ids, method="logits", model=model, params=weights.params)
    np.testing.assert_allclose(got, want, atol=5e-5)  # of logits up to 5
    without = params_of() | {"language_model": merged(params_of()["language_model"], 0.0)}
    other = apply(ids, method="logits", model=model, params=without)
    assert np.abs(other - want).max() > 1e-2


def test_drawn_images_are_what_the_parallel_model_says():
    """Greedy, guided: each id is the greatest of guided logits of all ids before it."""
    prompts = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (4, 5), np.int32))
    positions = jnp.broadcast_to(jnp.arange(5, dtype=jnp.int32), (4, 5))
    sampling = Sampling(temperature=0, cfg_scale=2.0)

    @jax.jit
    def run(params):
        x = MODEL.apply({"params": params}, prompts, method="embed")
        keys = row_keys(jax.random.key(0), jnp.arange(2))
        return draw_image_ids(MODEL, params, x, positions, keys, sampling)

    drawn = np.asarray(run(params_of()))
    assert drawn.shape == (2, 4)
    features = apply(drawn, method="image_inputs")
    ids = np.pad(prompts, ((0, 0), (0, 4)))
    places = np.where(np.arange(9) < 5, -1, np.arange(9) - 5) * np.ones((4, 1), np.int64)
    rows = np.tile(np.asarray(features), (2, 1, 1))[:, None]
    logits = apply(ids, places.astype(np.int32), rows, method="logits")[:, 4:8, VOCABULARY:]
    assert logits.shape[-1] == CODES
    guided = sampling.guided(jnp.asarray(logits).reshape(4, -1), 0).reshape(2, 4, CODES)
    np.testing.assert_array_equal(drawn, np.argmax(guided, axis=-1))


def test_llavas_names_come_back_bit_exact(golden, tmp_path):
    from safetensors.numpy import load_file, save_file

    config = MultimodalConfig(LANGUAGE_MODEL, TOKLIP)
    params = {name: params_of()[name] for name in ("language_model", "projector_tokens")}
    params["language_model"] = merged(params["language_model"], 0.0)
    tensors = llava_tensors(Weights(config, params, is_scanned=False))
    arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    save_file(arrays, tmp_path / "x.safetensors")
    assert "model.embed_tokens.weight" in tensors
    got = projector_params(read_checkpoint(tmp_path / "x.safetensors").tensors, 32, 16)
    jax.tree.map(np.testing.assert_array_equal, got, params["projector_tokens"])
    recorded = golden("multimodal_tiny/projector.safetensors")
    theirs = load_file(recorded)
    ours = projector_params(read_checkpoint(recorded).tensors, 48, 64)
    want = theirs["model.mm_projector.2.weight"].T
    np.testing.assert_array_equal(ours["fc2"]["kernel"], want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reads": ()}, "at least one"),
        ({"reads": ("words",)}, "expected reads among"),
        ({"tokenizer": None}, "got none"),
        ({"tokenizer": VQ, "grid": (2, 2)}, "reads 'tokens', got a VQ tokenizer alone"),
        ({"reads": ("codes",), "tokenizer": VQ, "grid": ()}, "one grid"),
        ({"grid": (3, 3)}, "one grid"),
        ({"reads": ("pixels",)}, "expected no tokenizer"),
        ({"reads": ("tokens", "pixels")}, "expected an image_tower"),
        ({"language_model": VQ}, "expected a language model's config"),
        ({"lora_rank": -1}, "at least 0"),
        ({"reads": ("pixels", "ids"), "image_tower": VISION}, "no 'pixels' beside 'ids'"),
        ({"tokenizer": SEEING}, "expected a causal TokLIP"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_the_vocabulary_grows_only_where_ids_are_read():
    assert CONFIG.predicts_images
    model = Multimodal(dataclasses.replace(CONFIG, reads=("tokens",)), Compute(is_scanned=False))
    with pytest.raises(ValueError, match="expected a model that reads 'ids'"):
        model.apply({"params": params_of()}, jnp.zeros((1, 16)), method="image_head")
    assert isinstance(VQ, LlamaGenConfig)


@pytest.mark.parametrize("reads", [("ids",), ("tokens",), ("codes", "ids")])
def test_any_choice_of_what_is_read_can_be_initialised_and_read(reads):
    config = dataclasses.replace(CONFIG, reads=reads)
    params, model = params_of(config), Multimodal(config, COMPUTE)
    projectors = {name for name in params if name.startswith("projector")}
    assert projectors == {f"projector_{name}" for name in reads if name != "ids"}
    assert ("image_embed" in params) == ("ids" in reads)
    image_ids = lines(1)["image_ids"][0]
    inputs = apply(image_ids, method="image_inputs", model=model, params=params)
    assert inputs.shape == (2, 4, config.width)
    assert np.isfinite(inputs).all()
