"""Emu3's tokenizer equals transformers' `Emu3VQVAE`, of images and of videos, and trains.

The recordings are float32 at highest matmul precision. Noise of float32 against float64 is up to
2.5e-5 before the quantiser, where values reach 13, and 1.3e-5 in activations and images; bounds are
those of the recordings' README. A wrong epsilon moves the former by 3e-3 (group norms) or 5e-3
(batch norms).
"""

import dataclasses
import functools
import json
import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import stages
from toklip_jax.cli.convert import main as convert
from toklip_jax.files import write_safetensors
from toklip_jax.files.rules import match, reverse_names, torch_shape
from toklip_jax.models.base import Hints, find_family
from toklip_jax.models.emu3.config import Emu3Config
from toklip_jax.models.emu3.sizes import SIZES
from toklip_jax.models.registry import build_model, count_params, param_shapes, recognise
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import to_unit_range
from toklip_jax.tasks.vq.objective import MOMENTUM, VQObjective
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.read import how_to_get, read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

ATOL = 1e-4
TINY = Emu3Config(16, 4, 32, (1, 1), num_res_blocks=1, attention_levels=())
SIDE = TINY.downsample
FACTOR = TINY.temporal_factor


@pytest.fixture
def close():
    """`close(got, want)` compares with a recording, and reports the largest error."""
    return functools.partial(stages.close, atol=ATOL)


@pytest.fixture(scope="module")
def weights(golden):
    return read_weights(golden("emu3_tiny/checkpoint.safetensors"))


@pytest.fixture(scope="module")
def want(golden):
    return np.load(golden("emu3_tiny/outputs.npz"))


@pytest.fixture(scope="module")
def inputs(golden):
    return np.load(golden("emu3_tiny/inputs.npz"))


def run(weights, inputs, method, **options):
    """Returns a method's result, and every submodule's, by path."""
    model = build_model(weights.config, Compute())
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights.params)

    @jax.jit
    def apply(params, inputs):
        return model.apply(
            {"params": params},
            inputs,
            method=method,
            capture_intermediates=True,
            mutable=["intermediates"],
            **options,
        )

    out, state = apply(params, jnp.asarray(inputs))
    flat = flax.traverse_util.flatten_dict(state.get("intermediates", {}), sep="/")
    return out, {path.removesuffix("/__call__"): values[0] for path, values in flat.items()}


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
    counts = [len(stages["encoder/conv_in"]) for stages in (inner, of_video)]
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


def originals(golden):
    """The recorded checkpoint's tensors under the names and in the shapes of the authors' files."""
    tensors = read_checkpoint(golden("emu3_tiny/checkpoint.safetensors")).tensors
    names = json.loads(golden("emu3_tiny/rename_from_original.json").read_text())
    arrays = {name: np.array(tensors[theirs]) for name, (theirs, *_) in names.items()}
    assert sorted(theirs for theirs, *_ in names.values()) == sorted(tensors)
    linear = [n for n, x in arrays.items() if x.ndim == 2 and n != "quantize.embedding.weight"]
    assert len(linear) == 28  # attention's projections, 1x1 convolutions in the original
    return arrays | {name: arrays[name][..., None, None] for name in linear}


def equal(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        found = np.asarray(got[name])
        assert (found.shape, found.dtype) == (array.shape, array.dtype), name
        assert found.tobytes() == np.ascontiguousarray(array).tobytes(), name


def test_both_packages_names_give_the_same_weights_and_go_back_bit_for_bit(
    weights, golden, tmp_path
):
    want = originals(golden)
    equal(export_tensors(weights), want)
    write_safetensors(tmp_path / "original.safetensors", want)
    again = read_weights(tmp_path / "original.safetensors")
    assert again.config == weights.config
    equal(flat(again.params), {path: np.asarray(x) for path, x in flat(weights.params).items()})
    equal(export_tensors(again), want)
    counters = [name for name in want if name.endswith("num_batches_tracked")]
    assert set(weights.carried) == set(counters)
    assert {want[name].dtype for name in counters} == {np.dtype("int64")}


def test_the_command_converts_verifies_and_writes_back(golden, tmp_path, capsys):
    path, jax_dir = golden("emu3_tiny/checkpoint.safetensors"), tmp_path / "jax"
    assert convert(["inspect", str(path)]) == 0
    assert "Emu3's vision tokenizer, in Hugging Face's names" in capsys.readouterr().out
    assert convert(["to-jax", str(path), str(jax_dir)]) == 0
    assert convert(["verify", str(path), str(jax_dir)]) == 0
    back = tmp_path / "back.safetensors"
    assert convert(["to-torch", str(jax_dir), str(back)]) == 0
    equal(read_checkpoint(back).tensors, originals(golden))
    assert convert(["verify", str(back), str(jax_dir)]) == 0


def recorded(golden, name):
    """Tensors of the real shapes that take no memory; each holds its own number."""
    keys = json.loads(golden(f"full_keys/{name}.json").read_text())
    return {
        key: np.broadcast_to(np.float32(i), shape)
        for i, (key, (shape, _)) in enumerate(keys.items())
    }


def test_at_the_published_size_no_key_is_left_on_either_side(golden):
    tensors = recorded(golden, "emu3_visiontokenizer_original_names")
    family = find_family(tensors)
    config = family.keys.infer(tensors, Hints(), "")
    assert (family.name, config) == ("emu3", SIZES["emu3"])
    rules, shapes = family.keys.rules(config, "", ""), param_shapes(config)
    names = reverse_names(rules, shapes)
    carried = {name for name in tensors if name.endswith("num_batches_tracked")}
    assert set(names) | carried == set(tensors)
    assert len(names) == len(shapes)
    for name, path in names.items():
        assert torch_shape(match(name, rules)[0].pattern, shapes[path]) == tensors[name].shape, name
    sizes = [tensor.size for name, tensor in tensors.items() if name not in carried]
    assert count_params(config) == sum(sizes)


def test_every_name_of_hugging_face_becomes_the_originals(golden):
    theirs = recorded(golden, "emu3_vqvae_default")
    ours = recorded(golden, "emu3_visiontokenizer_original_names")
    found = recognise(theirs)
    assert (found.family.name, found.names) == ("emu3", "Hugging Face's names")
    assert found.infer(Hints()) == SIZES["emu3"]
    assert {n: x.shape for n, x in found.tensors.items()} == {n: x.shape for n, x in ours.items()}
    names = json.loads(golden("full_keys/emu3_original_to_hf.json").read_text())
    for name, source in names.items():
        assert found.tensors[name].flat[0] == theirs[source].flat[0], name


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("ibq_262144_f16", "ibq"),
        ("taming_imagenet_f16_16384", "taming"),
        ("chameleon_7b_vqmodel", "chameleon"),
    ],
)
def test_other_families_files_are_not_taken_for_emu3s(name, family, golden):
    tensors = recorded(golden, name)
    assert recognise(tensors).family.name == family
    with pytest.raises(ValueError, match="expected weights of Emu3's vision tokenizer, got"):
        recognise(tensors, "emu3")


@pytest.mark.parametrize("family", ["taming", "ibq", "chameleon", "llamagen"])
def test_emu3s_file_is_refused_as_another_familys(family, golden, tmp_path):
    with pytest.raises(ValueError, match="expected weights of"):
        read_weights(golden("emu3_tiny/checkpoint.safetensors"), family=family)
    write_safetensors(tmp_path / "original.safetensors", originals(golden))
    with pytest.raises(ValueError, match=r"keys don't fit|expected"):
        read_weights(tmp_path / "original.safetensors", family=family)


def test_a_part_that_is_missing_or_damaged_is_named(golden, tmp_path):
    tensors = originals(golden)
    path = tmp_path / "x.safetensors"
    variance = tensors.pop("encoder.time_res_stack.1.norm2.running_var")
    tensors["decoder.mid.attn_1.norm.conv_b.weight"] = variance
    write_safetensors(path, tensors)
    with pytest.raises(ValueError, match="2 keys don't fit") as error:
        read_weights(path)
    assert "missing: encoder.time_res_stack.1.norm2.running_var" in str(error.value)
    assert "misshaped: decoder.mid.attn_1.norm.conv_b.weight is (4,)" in str(error.value)


def test_the_advice_on_missing_weights_says_where_they_are():
    parts = how_to_get("vq").split("; ")
    assert all(parts)  # families without advice leave no gap
    assert any("fetch BAAI/Emu3-VisionTokenizer from huggingface.co" in part for part in parts)


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
