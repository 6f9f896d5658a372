"""VILA-U's tokenizer against the recordings of its PyTorch code, and its files both ways.

Bounds as the recordings' README says: noise of float32 against float64 is below 5e-6.
"""

import dataclasses
import json
import logging

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from toklip_jax.cli.convert import main as convert
from toklip_jax.files import write_safetensors
from toklip_jax.files.rules import match, reverse_names, torch_shape
from toklip_jax.models.base import Hints, family_of, place_size
from toklip_jax.models.registry import (
    build_model,
    find_family,
    param_shapes,
    recognise,
)
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.vila_u.config import VilaUConfig
from toklip_jax.models.vila_u.sizes import SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.ops.nearest import nearest_code
from toklip_jax.ops.resample import resize_images
from toklip_jax.weights import Weights, load_weights, save_weights
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.conversion import carried_reasons, export_tensors
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

TINY = SIZES["vila_u_tiny"]
CODEBOOK = "quantizer.codebooks.{}.weight"


@pytest.fixture(autouse=True)
def _node(request):
    close.node = request.node


def close(got, want, name, atol=2e-5):
    got = np.asarray(got)
    error = float(np.max(np.abs(got - want)))
    close.node.user_properties.append((f"largest error of {name} (bound {atol:g})", error))
    np.testing.assert_allclose(got, want, atol=atol, rtol=1e-5)


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def places(array):
    """[b, h, w, ...] as [b, n, ...]."""
    return array.reshape(len(array), -1, *array.shape[3:])


@pytest.fixture(scope="module")
def path(golden):
    return golden("vila_u_tiny/checkpoint.safetensors")


@pytest.fixture(scope="module")
def tensors(path):
    return {name: np.array(x) for name, x in read_checkpoint(path).tensors.items()}


@pytest.fixture(scope="module")
def weights(path):
    return read_weights(path)


@pytest.fixture(scope="module")
def want(golden):
    return np.load(golden("vila_u_tiny/outputs.npz"))


@pytest.fixture(scope="module")
def recorded_config(golden):
    return json.loads(golden("vila_u_tiny/config.json").read_text())


@pytest.fixture(scope="module")
def pixels(golden):
    return np.load(golden("vila_u_tiny/inputs.npz"))["image_u8_nhwc"]


@pytest.fixture(scope="module")
def images(pixels):
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def written(tmp_path, tensors):
    write_safetensors(tmp_path / "file.safetensors", tensors)
    return tmp_path / "file.safetensors"


@pytest.fixture(scope="module")
def separate(tensors, golden, tmp_path_factory):
    books = read_checkpoint(golden("vila_u_tiny/separate_codebooks.safetensors")).tensors
    assert books.keys() == {CODEBOOK.format(i) for i in range(4)}
    return written(tmp_path_factory.mktemp("separate"), tensors | dict(books))


def run(weights, inputs, method=None, compute=None, **changes):
    """Outputs, and every submodule's output by path."""
    config = dataclasses.replace(weights.config, **changes)
    model = build_model(config, compute or Compute(is_scanned=False))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights.params)

    @jax.jit
    def apply(params, inputs):
        mutable = ["intermediates"]
        return model.apply(
            {"params": params}, inputs, method=method, capture_intermediates=True, mutable=mutable
        )

    out, state = apply(params, jnp.asarray(inputs))
    return out, state.get("intermediates", {})


def test_encoder_equals_the_recorded_stages_up_to_the_last_block_but_one(weights, want, images):
    ids, inner = run(weights, images, "tokenize")
    encoder = inner["encoder"]
    embedded = encoder["patch_embed"]["__call__"][0].reshape(4, 16, 64)
    close(
        embedded + np.float32(weights.params["encoder"]["pos_embed"]),
        want["embeddings"],
        "embeddings",
    )
    for i in range(3):
        close(encoder["stack"][f"blocks_{i}"]["__call__"][0][0], want[f"layer{i}"], f"layer{i}")
    assert set(encoder["stack"]) == {"__call__", "blocks_0", "blocks_1", "blocks_2"}
    close(encoder["__call__"][0], places(want["prequant_bhwc"]), "prequant_bhwc")
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids, places(want["indices"]))
    assert want["margin"].min() > 3e-2  # so that equal ids are no luck


def test_a_scanned_encoder_gives_the_same_ids(weights, want, images):
    ids, _ = run(weights.with_layout(True), images, "tokenize", Compute(is_scanned=True))
    np.testing.assert_array_equal(ids, places(want["indices"]))


def test_code_vectors_equal_the_recorded_sums(weights, want, images):
    ids = places(want["indices"])
    codes, _ = run(weights, ids, "code_vectors")
    close(codes, places(want["embed_code"]), "embed_code", 1e-6)
    through, _ = run(weights, images, "encode")
    close(through, places(want["quant_bhwc"]), "quant_bhwc", 1e-6)

    def rows(model, ids):
        return jnp.stack(model.quantiser._rows(ids), axis=2)

    of_depths, _ = run(weights, ids, rows)
    close(of_depths, places(want["code_emb_with_depth"]), "code_emb_with_depth", 1e-6)
    cumulative = places(want["quant_per_depth_cumulative"])
    close(jnp.cumsum(of_depths, axis=2), cumulative, "quant_per_depth_cumulative", 1e-6)


def test_decoded_images_equal_the_recorded_ones(weights, want):
    ids = places(want["indices"])
    decoded, _ = run(weights, ids, "detokenize")
    close(decoded, nhwc(want["decoded_fp32"]), "decoded_fp32", 1e-4)
    # The published code decodes in bfloat16: ours does where it is asked to.
    low = Compute(vq_dtype="bfloat16", is_scanned=False)
    decoded, _ = run(weights, ids[:1], "detokenize", low)
    assert decoded.dtype == jnp.float32
    close(decoded, nhwc(want["decoded_bf16_as_fp32"]), "decoded_bf16_as_fp32", 0.15)


def test_codes_are_resized_before_they_are_decoded_if_the_config_says_so(weights, want):
    quant = want["quant_bhwc"][:1]
    resized = resize_images(jnp.asarray(quant), 8, 8)
    close(resized, nhwc(want["latent8_interpolated_nchw"]), "latent8_interpolated", 1e-6)
    ids = places(want["indices"])[:1]
    decoded, _ = run(weights, ids, "detokenize", decoder_grid=8)
    assert decoded.shape == (1, 128, 128, 3)
    corner = nhwc(want["latent8_decoded_fp32_image0_topleft64"])
    close(decoded[:, :64, :64], corner, "latent8_decoded", 1e-4)
    with pytest.raises(ValueError, match=r"expected ids of the grid \(4, 4\)"):
        run(weights, ids, lambda m, ids: m.detokenize(ids, (2, 8)), decoder_grid=8)
    with pytest.raises(ValueError, match=r"size \(128, 128\) that the decoder gives, got \(64, 64"):
        run(weights, np.zeros((1, 64, 64, 3), np.float32), decoder_grid=8)


def test_separate_codebooks_are_told_from_shared_ones(separate, want, images):
    weights = read_weights(separate)
    assert weights.config == dataclasses.replace(TINY, is_shared=False)
    ids, _ = run(weights, images, "tokenize")
    np.testing.assert_array_equal(ids, places(want["separate_indices"]))
    assert want["separate_margin"].min() > 3e-2
    codes, _ = run(weights, ids, "code_vectors")
    close(codes, places(want["separate_quant_bhwc"]), "separate_quant_bhwc", 1e-6)


def test_the_padding_row_is_never_chosen(weights, want, recorded_config):
    padded = jnp.asarray(weights.params["quantiser"]["padded_codebook_0"], jnp.float32)
    latents = jnp.asarray(want["prequant_bhwc"].reshape(-1, 64))
    with_padding = nearest_code(latents, padded)
    found = int(jnp.sum(with_padding == TINY.codebook_size))
    assert found == recorded_config["padding_row_would_be_chosen_at_depth_0_of_64"]
    vectors, _ = run(weights, np.full((1, 16, 4), TINY.codebook_size, np.int32), "code_vectors")
    assert np.isnan(vectors).all()


@pytest.mark.parametrize(("row", "name"), [(255, "last_real_row"), (0, "row_0")])
def test_a_tie_goes_to_the_lowest_id(weights, want, images, recorded_config, row, name):
    ties = recorded_config["tie_break"]
    place = tuple(np.argwhere(places(want["indices"]) == ties["original"])[0])
    book = np.array(weights.params["quantiser"]["padded_codebook_0"])
    book[row] = book[ties["original"]]
    changed = weights.params | {"quantiser": {"padded_codebook_0": book}}
    ids, _ = run(dataclasses.replace(weights, params=changed), images, "tokenize")
    assert ids[place] == ties[f"with_copy_in_{name}"]


def test_training_losses_equal_the_recorded_one(weights, want, images, recorded_config):
    out, _ = run(weights, images)
    np.testing.assert_array_equal(out.ids, places(want["indices"]))
    close(out.images, nhwc(want["decoded_fp32"]), "decoded_fp32", 1e-4)
    close(out.latents, places(want["prequant_bhwc"]), "prequant_bhwc")
    loss = recorded_config["commitment_loss"]
    np.testing.assert_allclose(out.losses["commitment"].mean(), loss, 1e-5)
    np.testing.assert_allclose(out.losses["codebook"].mean(), loss, 1e-5)


@pytest.mark.plain
def test_gradients_are_finite_and_reach_all_but_the_padding_row(weights, images):
    model = build_model(TINY, Compute(is_scanned=False))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights.params)

    def loss(params):
        out = model.apply({"params": params}, jnp.asarray(images[:1]))
        losses = out.losses["codebook"] + 0.25 * out.losses["commitment"]
        return jnp.mean((out.images - images[:1]) ** 2) + losses.mean(), out.ids

    gradients, ids = jax.jit(jax.grad(loss, has_aux=True))(params)
    flat = flax.traverse_util.flatten_dict(gradients, sep="/")
    assert all(np.isfinite(x).all() for x in flat.values())
    still = {path for path, x in flat.items() if not np.any(x)}
    # Softmax does not see what all keys have in common.
    assert all(path.endswith(("attn/k/bias", "mid_attn/k/bias")) for path in still)
    moved = np.flatnonzero(np.any(flat["quantiser/padded_codebook_0"], axis=1))
    np.testing.assert_array_equal(moved, np.unique(ids))


def file_of(config):
    """A PyTorch file's tensors for every parameter of a model: zeros that take no memory."""
    rules, shapes = family_of(config).keys.rules(config, "", ""), param_shapes(config)
    names = reverse_names(rules, shapes)
    assert len(names) == len(shapes)
    patterns = {name: match(name, rules)[0].pattern for name in names}
    return {
        name: np.broadcast_to(np.float32(0), torch_shape(patterns[name], shapes[path]))
        for name, path in names.items()
    }


def same(got, want):
    assert got.keys() == want.keys()
    for name in got:
        a, b = np.asarray(got[name]), np.asarray(want[name])
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert a.tobytes() == b.tobytes(), name


def test_a_round_trip_is_bit_exact_and_says_why_tensors_are_kept(weights, tensors):
    assert weights.config == TINY
    same(export_tensors(weights), tensors)
    reasons = carried_reasons(weights)
    assert all(reasons.values())
    kept = {f"quantizer.codebooks.{i}.weight" for i in (1, 2, 3)}
    kept |= {name for name in tensors if name.endswith("_ema") or "logit_" in name}
    kept |= {name for name in tensors if "layers.3." in name}
    kept |= {name for name in tensors if "post_layernorm" in name or "vision_model.head" in name}
    assert reasons.keys() == kept
    assert len(kept) == 3 + 8 + 4 + 16 + 2 + 11


def test_a_round_trip_through_a_directory_is_bit_exact(separate, tmp_path, capsys):
    directory = tmp_path / "converted"
    assert convert(["to-jax", str(separate), str(directory), "--layout=scanned"]) == 0
    out = capsys.readouterr().out
    assert "cluster_size_ema" in out
    assert "a running mean" in out
    assert convert(["verify", str(separate), str(directory)]) == 0
    assert "bit-exact" in capsys.readouterr().out


def test_a_file_with_one_copy_of_what_is_shared_reads_and_is_written_back(
    tensors, weights, want, images, tmp_path, caplog
):
    copies = tuple(f"quantizer.codebooks.{i}." for i in (1, 2, 3))
    others = ("siglip_model.logit_scale", "siglip_model.logit_bias")
    one = {name: x for name, x in tensors.items() if not name.startswith(copies + others)}
    with caplog.at_level(logging.WARNING):
        found = read_weights(written(tmp_path, one))
    assert "shared by 4 codes a place" in caplog.text
    assert found.config == weights.config
    same(export_tensors(found), one)
    ids, _ = run(found, images, "tokenize")
    np.testing.assert_array_equal(ids, places(want["indices"]))


def test_the_file_of_the_vision_tower_holds_the_tokenizer(tensors, weights, tmp_path):
    tower = {f"rqvaesiglip.{name}": x for name, x in tensors.items()}
    tower["rqtransformer.blocks.0.weight"] = np.zeros((2, 2), np.float16)
    found = read_weights(written(tmp_path, tower))
    assert found.dropped.keys() == {"rqtransformer.blocks.0.weight"}
    assert "the transformer over a place's codes" in found.dropped["rqtransformer.blocks.0.weight"]
    assert found.config == weights.config
    same(export_tensors(found), tensors)


def test_every_key_of_the_real_encoder_and_quantiser_is_accounted_for(golden):
    keys = json.loads(golden("full_keys/vila_u_256_encoder_quantizer.json").read_text())
    # Broadcasting one number gives arrays of any shape that take no memory.
    tensors = {k: np.broadcast_to(np.float32(0), shape) for k, (shape, _) in keys.items()}
    family = find_family(tensors, role="vq")
    assert family.name == "vila_u"
    config = recognise(tensors).infer(Hints())
    assert config == dataclasses.replace(SIZES["vila_u_256"], has_decoder=False)
    used = file_of(config)
    assert {name: x.shape for name, x in used.items()} == {
        name: tensors[name].shape for name in used
    }
    rules = family.keys.rules(config, "", "")
    rest = {name: match(name, rules) for name in tensors.keys() - used.keys()}
    assert all(rule and path is None and rule.reason for rule, path in rest.values())
    text = {name for name in rest if ".text_model." in name}
    assert len(text) == 2 + 24 * 16 + 4
    assert len(rest) == len(text) + 3 + 8 + 4 + 16 + 2 + 11


def test_an_encoder_without_a_decoder_tokenizes_and_says_what_it_cannot(
    tensors, want, images, tmp_path
):
    left = ("decoder.", "post_quant_conv.")
    encoder = {name: x for name, x in tensors.items() if not name.startswith(left)}
    weights = read_weights(written(tmp_path, encoder))
    assert not weights.config.has_decoder
    same(export_tensors(weights), encoder)
    ids, _ = run(weights, images, "tokenize")
    np.testing.assert_array_equal(ids, places(want["indices"]))
    with pytest.raises(ValueError, match="expected weights with a decoder"):
        run(weights, ids, "detokenize")


def test_the_tokenizer_of_384_pixels_resizes_a_grid_of_27_to_24():
    """The shapes alone tell: 27 patches of 14 pixels, and a decoder that enlarges 16 times."""
    config = SIZES["vila_u_384"]
    assert config.grid_of(384, 384) == config.grid_of(378, 378) == (27, 27)
    assert config.decoded_size == (384, 384)
    assert place_size(config) == (14, 14)
    assert place_size(TINY) == (16, 16)
    fake = file_of(config)
    # A file has SigLIP's last block and norm, and as many names of the codebook as codes.
    vision = "siglip_model.vision_model."
    norm = fake[f"{vision}encoder.layers.0.layer_norm1.weight"]
    unused = (f"{vision}encoder.layers.26.layer_norm1.weight", f"{vision}post_layernorm.weight")
    fake |= dict.fromkeys(unused, norm)
    fake |= {CODEBOOK.format(i): fake[CODEBOOK.format(0)] for i in range(16)}
    assert recognise(fake).infer(Hints()) == config


def test_it_loads_as_a_tokenizer(path, pixels, want):
    vq = toklip_jax.load(path)
    ids = vq.tokenize(pixels)
    assert (ids.shape, vq.config.codebook_sizes) == ((4, 16, 4), (256,) * 4)
    np.testing.assert_array_equal(ids, places(want["indices"]))
    close(vq.code_vectors(ids), places(want["embed_code"]), "embed_code", 1e-6)
    decoded = vq.detokenize(ids)
    close(decoded, np.clip(nhwc(want["decoded_fp32"]), -1, 1), "decoded_fp32, clipped", 1e-4)
    with pytest.raises(ValueError, match=r"expected images of 64x64, .* got 80x64: resize them"):
        vq.tokenize(np.zeros((1, 80, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected images \[b, h, w, 3\]"):
        vq.tokenize(np.zeros((1, 4, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected ids in \[0, 256\), got 256 to 256"):
        vq.detokenize(np.full((1, 16, 4), 256))
    with pytest.raises(ValueError, match=r"expected integer ids \[b, n, 4\], got int64 \(1, 16\)"):
        vq.detokenize(np.zeros((1, 16), np.int64))
    with pytest.raises(ValueError, match=r"expected integer ids \[b, n, 4\], got int64 \(1, 16, 3"):
        vq.detokenize(np.zeros((1, 16, 3), np.int64))


def test_saved_weights_keep_the_config_and_what_is_carried(weights, tensors, tmp_path):
    save_weights(tmp_path / "saved", weights)
    found = load_weights(tmp_path / "saved")
    assert found.config == weights.config
    same(export_tensors(found), tensors)


def test_weights_trained_here_come_back_without_the_parts_that_are_not_used(tmp_path, caplog):
    draw = np.random.default_rng(0).standard_normal
    flat = {path: draw(shape, np.float32) for path, shape in param_shapes(TINY).items()}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    weights = Weights(TINY, params, is_scanned=False)
    with caplog.at_level(logging.WARNING):
        found = read_weights(written(tmp_path, export_tensors(weights)))
    assert "took all 3 blocks of SigLIP to run" in caplog.text
    assert found.config == TINY
    same(flax.traverse_util.flatten_dict(found.params, sep="/"), flat)


def test_a_token_encoder_on_it_is_told_by_its_file():
    text = TextConfig(64, 2, 4, vocab_size=512, context_length=16)
    vision = VisionConfig(64, 2, 8, is_causal=True, image_size=64, patch_size=16)
    config = TokLIPConfig(TINY, vision, text)
    file = file_of(config)
    # The heads are the token encoder's; those of VILA-U's encoder are a named size's.
    assert recognise(file).infer(Hints(num_heads=8, text_num_heads=4)) == config


def test_heads_that_no_named_size_tells_are_asked_for(tensors, tmp_path):
    first = [name for name in tensors if "vision_model.encoder.layers.3." not in name]
    path = written(tmp_path, {name: tensors[name] for name in first})
    with pytest.raises(ValueError, match="expected a named size or num_heads"):
        read_weights(path)
    config = read_weights(path, num_heads=4).config
    assert (config.depth, config.num_heads) == (2, 4)


def test_files_of_other_families_and_damaged_ones_are_refused(path, tensors, tmp_path):
    with pytest.raises(ValueError, match="expected weights of taming"):
        read_weights(path, family="taming")
    with pytest.raises(ValueError, match="expected no is_l2_normalised"):
        read_weights(path, is_l2_normalised=False)
    name = CODEBOOK.format(0)
    damaged = {n: x for n, x in tensors.items() if not n.startswith("quantizer.codebooks")}
    with pytest.raises(ValueError, match="expected codes and a padding row"):
        read_weights(written(tmp_path, damaged | {name: tensors[name][:1]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes_per_place": 1}, "at least 2 codes_per_place"),
        ({"codebook_size": 0}, "a codebook_size of at least 1"),
        ({"patch_size": 512}, "a patch_size of at most the image_size 256"),
        ({"channels": 48}, "channels divisible by 32"),
        ({"multipliers": ()}, "multipliers of at least 1"),
        ({"decoder_grid": 0}, "a decoder_grid of at least 1"),
        ({"num_heads": 3}, "num_heads to divide the width"),
        ({"depth": 0}, "a depth of at least 1"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        VilaUConfig(**changes)


def test_inspect_shows_the_grid_of_the_one_size_it_takes(golden, capsys):
    assert (
        convert(["inspect", str(golden("vila_u_tiny/checkpoint.safetensors")), "--num-heads=4"])
        == 0
    )
    assert "grid: 4 x 4, of images of 64 x 64 px" in capsys.readouterr().out
