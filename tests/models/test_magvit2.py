"""Open-MAGVIT2's tokenizer against recordings of the PyTorch implementation, stage by stage."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from tests.models.foreign_files import published
from tests.models.stages import at, close, nhwc, run
from toklip_jax.cli.convert import main as convert
from toklip_jax.files import write_safetensors
from toklip_jax.files.rules import match, reverse_names, torch_shape
from toklip_jax.losses.sign_entropy import sign_entropies
from toklip_jax.losses.soft_assignment import TEMPERATURE
from toklip_jax.models.magvit2.config import Magvit2Config
from toklip_jax.models.magvit2.sizes import SIZES
from toklip_jax.models.registry import Hints, build_model, find_family, param_shapes
from toklip_jax.nn.config import Compute
from toklip_jax.ops.pixels import depth_to_space, to_unit_range
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.conversion import export_tensors
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

ATOL, LEVEL_ATOL = 2e-5, 1e-4
LEVELS, BITS = 5, 12
RECORDING = "magvit2_tiny"
CHECKPOINT = f"{RECORDING}/checkpoint.safetensors"


@pytest.fixture(scope="module")
def images(inputs):
    return to_unit_range(inputs["image_u8_nhwc"])


@pytest.fixture(scope="module")
def passed(weights, images):
    """The output of the training pass, and every submodule's."""
    with jax.default_matmul_precision("highest"):
        return run(weights, images)


@pytest.fixture(scope="module")
def recorded_latents(want):
    return jnp.asarray(nhwc(want["prequant"]).reshape(4, 16, BITS))


def flat(array):
    return nhwc(array).reshape(4, 16, BITS)


def test_ids_and_vectors_equal_the_recorded_ones(weights, passed, want):
    out, inner = passed
    ids = want["indices"].reshape(4, 16)
    close(at(inner, "encoder"), nhwc(want["prequant"]), ATOL)
    np.testing.assert_array_equal(out.ids, ids)
    assert want["margin"].min() > 1e-2  # so that equal ids are no luck
    close(jnp.abs(out.latents).min(-1), want["margin"].reshape(4, 16), ATOL)
    vectors, _ = run(weights, out.ids, "code_vectors")
    np.testing.assert_array_equal(vectors, flat(want["codebook_entry"]))
    np.testing.assert_array_equal(vectors > 0, flat(want["bits"]) > 0)
    np.testing.assert_array_equal(ids % 2**6, want["factorized_low6"].reshape(4, 16))
    np.testing.assert_array_equal(ids // 2**6, want["factorized_high6"].reshape(4, 16))


def test_straight_through_vectors_equal_the_recorded_ones(weights, images, want):
    vectors, _ = run(weights, images, "encode")
    close(vectors, flat(want["quant"]), 1e-6)


def test_images_equal_the_recorded_ones(weights, passed, want):
    out, _ = passed
    close(out.images, nhwc(want["decoded"]), LEVEL_ATOL)
    decoded, _ = run(weights, np.asarray(out.ids[:1]), "detokenize")
    close(decoded, nhwc(want["decoded_code"]), LEVEL_ATOL)


def test_levels_equal_the_recorded_ones(passed, want):
    _, inner = passed
    stages = {"enc_mid": at(inner, "encoder/mid_res_1"), "dec_mid": at(inner, "decoder/mid_res_1")}
    for i in range(LEVELS):
        last = "downsample" if i < LEVELS - 1 else "res_1"
        stages[f"enc_level{i}"] = at(inner, f"encoder/levels_{i}_{last}")
        number, level = LEVELS - 1 - i, f"decoder/levels_{i}"
        stages[f"dec_adaptive{number}"] = at(inner, f"{level}_norm")
        stages[f"dec_up{number}"] = (
            depth_to_space(at(inner, f"{level}_upsample"), 2)
            if number
            else at(inner, f"{level}_res_1")
        )
    compared = set()
    for name, stage in stages.items():
        got = np.asarray(stage)
        axes = (1, 2, 3)
        stats = [got.mean(axes), got.std(axes, ddof=1), got.min(axes), got.max(axes)]
        close(np.stack(stats, axis=1), want[f"{name}_stats"], LEVEL_ATOL)
        if name in want:
            close(got[: len(want[name])], nhwc(want[name]), LEVEL_ATOL)
        compared |= {name, f"{name}_stats"}
    others = {"prequant", "indices", "bits", "quant", "codebook_entry", "decoded", "decoded_code"}
    others |= {"margin", "factorized_low6", "factorized_high6"}
    assert set(want) <= compared | others


def test_training_losses_equal_the_recorded_ones(passed, recorded_latents, weights, golden):
    want = json.loads(golden("magvit2_tiny/config.json").read_text())["train_mode_losses"]
    out, _ = passed
    np.testing.assert_allclose(out.losses["commitment"].mean(), want["commitment"], 1e-5)
    between, _ = run(weights, recorded_latents, "between_rows")
    np.testing.assert_allclose(between["entropy"], want["entropy_aux_loss"], 1e-5)
    of_latents, of_codebook = sign_entropies(recorded_latents)
    np.testing.assert_allclose(of_codebook, want["codebook_entropy"], 1e-5)
    exact = per_sample_entropy(np.asarray(recorded_latents, np.float64))
    np.testing.assert_allclose(of_latents, exact, 1e-5)
    # PyTorch takes it from scores of up to 6,000, which float32 has in steps of 5e-4.
    np.testing.assert_allclose(of_latents, want["per_sample_entropy"], 2e-4)


def per_sample_entropy(latents):
    """E[H(p)] over all codes at once, in the type of the latents."""
    codes = 2.0 * ((np.arange(2**BITS)[:, None] >> np.arange(BITS)) & 1) - 1
    scores = 2 * latents.reshape(-1, BITS) @ codes.T / TEMPERATURE
    scores -= scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.sum(np.exp(scores), axis=1, keepdims=True))
    return -np.mean(np.sum(np.exp(log_p) * log_p, axis=1))


def small_model():
    """A model that compiles fast, its parameters, and images that are not square."""
    config = Magvit2Config(channels=64, multipliers=(1, 2), num_res_blocks=1, z_channels=4)
    model = build_model(config, Compute(is_scanned=False))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3), minval=-1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return (
        model,
        jax.tree.map(lambda x: 0.1 * jnp.float32(rng.normal(size=x.shape)), shapes),
        images,
    )


@pytest.mark.plain
def test_gradients_are_finite_and_reach_every_parameter():
    model, params, images = small_model()

    @jax.jit
    @jax.grad
    def gradients(params):
        out = model.apply({"params": params}, images)
        between = model.apply({"params": params}, out.latents, method="between_rows")
        error = jnp.mean((out.images - images) ** 2)
        return error + 0.25 * out.losses["commitment"].mean() + 0.1 * between["entropy"]

    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(params)):
        assert jnp.isfinite(gradient).all(), path
        assert jnp.abs(gradient).max() > 0, path


def test_pictures_that_are_not_square_decode_on_their_grid():
    model, params, images = small_model()

    @jax.jit
    def both_ways(params):
        out = model.apply({"params": params}, images)
        return out, model.apply({"params": params}, out.ids, grid=(4, 6), method="detokenize")

    out, decoded = both_ways(params)
    assert out.ids.shape == (2, 24)
    assert len(np.unique(out.ids)) > 4
    assert decoded.shape == images.shape
    np.testing.assert_allclose(decoded, out.images, atol=1e-5)


def test_a_loaded_file_gives_the_recorded_ids_of_bytes(golden, want):
    vq = toklip_jax.load(golden(CHECKPOINT))
    assert vq.config == Magvit2Config(
        channels=32, multipliers=(1, 1, 1, 1, 2), num_res_blocks=2, z_channels=BITS
    )
    ids = vq.tokenize(np.load(golden("magvit2_tiny/inputs.npz"))["image_u8_nhwc"])
    np.testing.assert_array_equal(ids, want["indices"].reshape(4, 16))
    close(vq.detokenize(ids), np.clip(nhwc(want["decoded"]), -1, 1), LEVEL_ATOL)


def test_conversion_there_and_back_is_bit_exact(golden, tmp_path):
    source, out, back = golden(CHECKPOINT), tmp_path / "jax", tmp_path / "back.safetensors"
    assert convert(["to-jax", str(source), str(out)]) == 0
    assert convert(["to-torch", str(out), str(back)]) == 0
    want, got = read_checkpoint(source).tensors, read_checkpoint(back).tensors
    assert set(got) == set(want)
    for key in want:
        assert got[key].dtype == want[key].dtype == np.float16, key
        assert got[key].tobytes() == want[key].tobytes(), key


@pytest.mark.parametrize("is_ema", [None, True, False])
def test_a_lightning_file_gives_the_running_mean_or_the_raw_weights(golden, tmp_path, is_ema):
    raw = {name: np.array(x) for name, x in read_checkpoint(golden(CHECKPOINT)).tensors.items()}
    means = {f"model_ema.{name.replace('.', '')}": x / 2 for name, x in raw.items()}
    beside = {
        "model_ema.decay": np.float32(0.999).reshape(()),
        "model_ema.num_updates": np.array(5, np.int32),
        "loss.discriminator.main.0.weight": np.ones((2, 3), np.float16),
    }
    write_safetensors(tmp_path / "lightning.safetensors", raw | means | beside)
    weights = read_weights(tmp_path / "lightning.safetensors", is_ema=is_ema)
    factor = 1 if is_ema is False else 0.5
    exported = export_tensors(weights)
    assert set(exported) == set(raw)
    for name, array in raw.items():
        np.testing.assert_array_equal(np.asarray(exported[name]), factor * array, name)


@pytest.mark.parametrize("prefix", ["", "visual.trunk.vq."])
def test_the_published_keys_and_shapes_are_all_accounted_for(golden, prefix):
    keys = published(golden, "open_magvit2_262144_f16")
    tensors = {prefix + key: tensor for key, tensor in keys.items()}
    family = find_family(tensors, prefix)
    assert family.name == "magvit2"
    config = family.keys.infer(tensors, Hints(), prefix)
    assert config == SIZES["magvit2_f16_262144"]
    shapes, rules = param_shapes(config), family.keys.rules(config, prefix, "")
    names = reverse_names(rules, shapes)
    assert set(names) == set(tensors)
    assert len(names) == len(shapes)
    for name, path in names.items():
        rule, target = match(name, rules)
        assert target == path
        assert torch_shape(rule.pattern, shapes[path]) == tensors[name].shape, name


def test_ids_outside_the_codes_are_refused(golden):
    vq = toklip_jax.load(golden(CHECKPOINT))
    with pytest.raises(ValueError, match=str(2**BITS)):
        vq.detokenize(np.full((1, 16), 2**BITS, np.int32))


def test_one_place_is_too_few_to_decode(golden):
    vq = toklip_jax.load(golden(CHECKPOINT))
    with pytest.raises(ValueError, match="expected a grid of at least two places to decode"):
        vq.detokenize(np.zeros((1, 1), np.int32))


@pytest.mark.parametrize("family", ["llamagen", "ibq"])
def test_another_familys_name_is_refused(golden, family):
    with pytest.raises(ValueError, match="expected weights of"):
        read_weights(golden(CHECKPOINT), family=family)


@pytest.mark.parametrize("z_channels", [0, 31])
def test_a_number_of_bits_that_no_id_can_have_is_refused(z_channels):
    with pytest.raises(ValueError, match="expected"):
        Magvit2Config(z_channels=z_channels)
