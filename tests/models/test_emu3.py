"""Emu3's tokenizer equals transformers' `Emu3VQVAE`, of images and of videos, and trains.

The recordings are float32 at highest matmul precision. Noise of float32 against float64 is up to
2.5e-5 before the quantiser, where values reach 13, and 1.3e-5 in activations and images; bounds are
those of the recordings' README. A wrong epsilon moves the former by 3e-3 (group norms) or 5e-3
(batch norms).
"""

import dataclasses
import functools
import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import stages
from toklip_jax.models.emu3.config import Emu3Config
from toklip_jax.models.emu3.sizes import SIZES
from toklip_jax.models.registry import build_model, param_shapes
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.tasks.vq.objective import MOMENTUM, VQObjective

pytestmark = pytest.mark.usefixtures("highest_precision")

RECORDING = "emu3_tiny"
ATOL = 1e-4
TINY = Emu3Config(16, 4, 32, (1, 1), num_res_blocks=1, attention_levels=())
SIDE = TINY.downsample
FACTOR = TINY.temporal_factor


@pytest.fixture
def close():
    """`close(got, want)` compares with a recording, and reports the largest error."""
    return functools.partial(stages.close, atol=ATOL)


def run(weights, inputs, method, **options):
    """Returns a method's result, and every submodule's, by path."""
    out, inner = stages.run(weights, inputs, method, compute=Compute(), options=options)
    found = flat(inner)
    return out, {path.removesuffix("/__call__"): values[0] for path, values in found.items()}


def channels_last(array):
    return np.moveaxis(array, 1, -1)


ENCODED = {
    "enc_level0": "encoder/levels_0_downsample",
    "enc_level1": "encoder/levels_1_downsample",
    "enc_level2": "encoder/levels_2_downsample",
    "enc_level3": "encoder/levels_3_res_1",  # before its attention
    "enc_mid": "encoder/mid_res_1",
    "enc_conv_out": "encoder/conv_out",
    "enc_time_conv0_before_silu": "encoder_time/down_0",
    "enc_time_conv1_before_silu": "encoder_time/down_1",
    "enc_time_res0": "encoder_time/res_0",
    "enc_time_res1": "encoder_time/res_1",
}
DECODED = {
    "post_quant": "post_quant_conv",
    "dec_time_res1": "decoder_time/res_1",
    "dec_time_conv1_before_silu": "decoder_time/up_1",
    "dec_conv_in": "decoder/conv_in",
    "dec_mid": "decoder/mid_res_1",
    "dec_up3": "decoder/levels_0_upsample",
    "dec_up2": "decoder/levels_1_upsample",
    "dec_up1": "decoder/levels_2_upsample",
    "dec_up0": "decoder/levels_3_res_2",
}


@pytest.fixture(scope="module")
def encoded(weights, inputs):
    return run(weights, to_unit_range(inputs["image_u8_nhwc"]), "tokenize")


@pytest.fixture(scope="module")
def decoded(weights, want):
    return run(weights, want["indices"].reshape(4, -1), "detokenize")


def test_ids_of_images_equal_the_recorded_ones(encoded, want, close):
    ids, inner = encoded
    close(inner["encoder_time"], want["encoder_out"].transpose(0, 1, 3, 4, 2))
    close(inner["quant_conv"], channels_last(want["prequant_bcthw"]))
    np.testing.assert_array_equal(ids, want["indices"].reshape(4, -1))
    assert (ids.dtype, want["margin"].min() > 3e-3) == (jnp.int32, True)  # equal ids are no luck


@pytest.mark.parametrize("name", ENCODED)
def test_a_stage_of_the_encoder_equals_the_recorded_one(name, encoded, want, close):
    got = encoded[1][ENCODED[name]]
    close(stages.stats_of(got), want[f"{name}_stats"])
    if name in want:
        close(got, channels_last(want[name]))


@pytest.mark.parametrize("name", DECODED)
def test_a_stage_of_the_decoder_equals_the_recorded_one(name, decoded, want, close):
    got = decoded[1][DECODED[name]][:1]  # recorded of the first image
    close(stages.stats_of(got), want[f"{name}_stats"])
    if name in want:
        close(got, channels_last(want[name]))


def test_images_and_all_their_frames_equal_the_recorded_ones(weights, decoded, want, close):
    images, _ = decoded
    close(images, channels_last(want["decoded"]))
    ids = want["indices"].reshape(4, -1)[:1]
    frames, _ = run(weights, ids, "detokenize", grid=(1, 8, 8))
    close(stages.stats_of(frames[0]), want["all_frames_of_image_decode_stats"])
    np.testing.assert_allclose(frames[0, 0], images[0], atol=1e-5)
    ids = want["nonsquare_indices"].reshape(1, -1)
    image, _ = run(weights, ids, "detokenize", grid=(8, 6))
    close(image, channels_last(want["nonsquare_decoded"]))


def test_a_video_equals_the_recorded_one(weights, inputs, want, close):
    ids, inner = run(weights, to_unit_range(inputs["video_u8_thwc"])[None], "tokenize")
    close(inner["encoder_time"], want["video_encoder_out"].transpose(0, 1, 3, 4, 2))
    close(inner["quant_conv"], channels_last(want["video_prequant_bcthw"]))
    np.testing.assert_array_equal(ids, want["video_indices"].reshape(1, -1))
    video, _ = run(weights, ids, "detokenize", grid=(2, 8, 8))
    assert (video.shape, want["video_margin"].min() > 3e-3) == ((1, 8, 64, 64, 3), True)
    for i in (0, 7):
        close(video[:, i], channels_last(want[f"video_decoded_frame{i}"]))
    close(stages.stats_of(video[0]), want["video_decoded_stats"])


def test_code_vectors_are_the_raw_rows(weights, want):
    ids = want["indices"].reshape(4, -1)
    vectors, _ = run(weights, ids, "code_vectors")
    rows = np.asarray(weights.params["codebook"], np.float32)
    np.testing.assert_array_equal(vectors, rows[ids])
    outside, _ = run(weights, np.array([[-1, 512]]), "code_vectors")
    assert np.isnan(outside).all()


def test_an_image_is_encoded_once_and_gives_what_four_frames_give(weights, inputs, encoded):
    images = to_unit_range(inputs["image_u8_nhwc"])
    ids, inner = encoded
    frames, of_video = run(weights, np.repeat(images[:, None], 4, axis=1), "tokenize")
    np.testing.assert_array_equal(ids, frames)
    np.testing.assert_allclose(inner["quant_conv"], of_video["quant_conv"], atol=1e-4)
    counts = [len(maps["encoder/conv_in"]) for maps in (inner, of_video)]
    assert counts == [4, 16]


@pytest.fixture(scope="module")
def tiny():
    """A tokenizer with random parameters; kernels keep activations near 1."""
    rng, params = np.random.default_rng(0), {}
    for path, shape in param_shapes(TINY).items():
        values = rng.normal(0, 0.3, shape)
        if path.endswith("kernel"):
            values = rng.normal(0, math.prod(shape[:-1]) ** -0.5, shape)
        elif path.endswith(("scale", "var")):
            values = rng.uniform(0.5, 1, shape)
        params[path] = jnp.asarray(values, jnp.float32)
    return build_model(TINY, Compute()), flax.traverse_util.unflatten_dict(params, sep="/")


def call(model, params, inputs, *others, method):
    """Returns a method's result, compiled."""
    apply = jax.jit(lambda params, x: model.apply({"params": params}, x, *others, method=method))
    return apply(params, inputs)


def test_later_frames_change_no_earlier_ids_and_no_earlier_frames(tiny):
    model, params = tiny
    videos = np.random.default_rng(1).uniform(-1, 1, (1, 2 * FACTOR, 4, 6, 3)).astype(np.float32)
    changed = videos.copy()
    changed[:, FACTOR:] *= -1
    first, second = (call(model, params, x, method="latents") for x in (videos, changed))
    n = 2 * 3
    np.testing.assert_allclose(first[:, :n], second[:, :n], atol=1e-6)
    assert float(jnp.abs(first[:, n:] - second[:, n:]).max()) > 1e-3
    ids = jax.random.randint(jax.random.key(0), (1, 2 * n), 0, 16)
    other = ids.at[:, n:].set((ids[:, n:] + 1) % 16)
    first, second = (call(model, params, x, (2, 2, 3), method="detokenize") for x in (ids, other))
    np.testing.assert_allclose(first[:, :FACTOR], second[:, :FACTOR], atol=1e-6)
    assert float(jnp.abs(first[:, FACTOR:] - second[:, FACTOR:]).max()) > 1e-3


@pytest.fixture(scope="module", params=[(4, 8), (FACTOR, 4, 8)], ids=["images", "videos"])
def trained(tiny, request):
    """Inputs, and what training's pass makes of them: its output, statistics and gradients."""
    model, params = tiny
    images = jax.random.uniform(jax.random.key(2), (3, *request.param, 3), minval=-1)

    @jax.jit
    def train(params):
        def loss(params):
            out, state = model.apply({"params": params}, images, mutable=["statistics"])
            error = jnp.mean((out.images - images) ** 2)
            return error + sum(jnp.mean(x) for x in out.losses.values()), (out, state)

        return jax.grad(loss, has_aux=True)(params)

    grads, (out, state) = train(params)
    return images, out, state["statistics"], grads


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def is_running(path):
    return path.split("/")[-1] in ("mean", "var")


@pytest.mark.plain
def test_gradients_are_finite_and_reach_all_but_running_statistics(trained, tiny):
    images, out, _, grads = trained
    assert out.images.shape == images.shape
    assert out.ids.shape == (3, math.prod(TINY.grid_of(*images.shape[1:-1])))
    for path, grad in flat(grads).items():
        assert np.isfinite(grad).all(), path
        if is_running(path):
            np.testing.assert_array_equal(grad, 0, err_msg=path)
        elif path.endswith("kernel"):
            assert float(jnp.abs(grad).max()) > 0, path


def test_training_leaves_each_batch_norms_statistics_under_its_parameters_paths(trained, tiny):
    found, params = flat(trained[2]), flat(tiny[1])
    assert set(found) == {path for path in params if is_running(path)}
    assert len(found) == 2 * 2 * 2  # encoder and decoder, two norms each, mean and variance
    for path, value in found.items():
        assert (value.shape, value.dtype) == (params[path].shape, jnp.float32)


def test_training_computes_what_evaluation_does_with_the_batchs_statistics(trained, tiny):
    """As running ones, but for the variance, whose unbiased estimate is the one that is left."""
    model, params = tiny
    images, out, found, _ = trained
    time = 1 if images.ndim == 4 else images.shape[1] // FACTOR
    places = len(images) * time * math.prod(images.shape[-3:-1]) // SIDE**2
    running = flat(params)
    for path, value in flat(found).items():
        count = places if path.startswith("encoder") else 2 * places
        running[path] = value * (count - 1) / count if path.endswith("var") else value
    params = flax.traverse_util.unflatten_dict(running, sep="/")
    latents = call(model, params, images, method="latents")
    np.testing.assert_allclose(latents, out.latents, atol=1e-5)
    grid = TINY.grid_of(*images.shape[1:-1])
    restored = call(model, params, out.ids, grid, method="detokenize")
    np.testing.assert_allclose(restored, out.images, atol=1e-4)


def test_running_statistics_follow_those_of_batches(trained, tiny):
    images, _, found, _ = trained
    model, params = tiny
    objective = VQObjective(TINY, model.compute)
    loss, metrics = jax.jit(objective.loss)(params, {"images": images}, jax.random.key(0))
    assert np.isfinite(loss)
    new = flat(objective.refresh(params, metrics["statistics"], jax.random.key(0)))
    batch = flat(found)
    for path, old in flat(params).items():
        want = old + MOMENTUM * (batch[path] - old) if is_running(path) else old
        np.testing.assert_allclose(new[path], want, atol=1e-6, err_msg=path)


def test_evaluation_leaves_no_statistics(tiny):
    model, params = tiny

    def tokenize(params, images):
        return model.apply({"params": params}, images, method="tokenize", mutable=["statistics"])

    _, state = jax.eval_shape(tokenize, params, jnp.zeros((1, 4, 4, 3)))
    assert not state.get("statistics")


def test_a_low_type_changes_images_little(tiny):
    exact, params = tiny
    low, ids = build_model(TINY, Compute(vq_dtype="bfloat16")), jnp.arange(8)[None]
    images = [call(m, params, ids, (2, 4), method="detokenize") for m in (exact, low)]
    assert images[1].dtype == jnp.float32
    assert 0 < float(jnp.abs(images[0] - images[1]).max()) < 0.2


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((4, 9), "image sides divisible by 2, got 4x9"),
        ((6, 4, 4), "number of frames divisible by 4, got 6 frames"),
        ((0, 4, 4), "number of frames divisible by 4, got 0 frames"),
        ((4, 4, 5), "frames with sides divisible by 2, got 4x5"),
        ((4,), r"the size of an image, \(height, width\), or of a video"),
        ((1, 4, 4, 4), r"the size of an image, \(height, width\), or of a video"),
    ],
)
def test_sizes_without_a_grid_say_what_to_do(size, message):
    with pytest.raises(ValueError, match=message):
        TINY.grid_of(*size)


def test_grids_are_of_images_and_videos():
    assert TINY.grid_of(4, 6) == (2, 3)
    assert TINY.grid_of(8, 4, 6) == (2, 2, 3)
    assert SIZES["emu3"].grid_of(512, 720) == (64, 90)
    assert SIZES["emu3"].grid_of(16, 512, 512) == (4, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temporal_levels": 0}, "temporal_levels of at least 1, got 0"),
        ({"z_channels": 8}, "z_channels equal to codebook_dim"),
        ({"channels": 48}, "channels divisible by 32"),
    ],
)
def test_sizes_that_cant_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)
