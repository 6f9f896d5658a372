"""VILA-U's files: read whole and in part, written back, and told from others."""

import dataclasses
import logging

import flax.traverse_util
import numpy as np
import pytest

from tests.models.foreign_files import published, same_bits, written
from tests.models.stages import close, run
from tests.models.vq_recordings import images_of
from toklip_jax.cli.convert import main as convert
from toklip_jax.files.rules import match, reverse_names, torch_shape
from toklip_jax.models.base import Hints, family_of, place_size
from toklip_jax.models.registry import find_family, param_shapes, recognise
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.vila_u.sizes import SIZES
from toklip_jax.weights import Weights, load_weights, save_weights
from toklip_jax.weights.checkpoint_file import read_checkpoint
from toklip_jax.weights.conversion import carried_reasons, export_tensors
from toklip_jax.weights.read import read_weights

pytestmark = pytest.mark.usefixtures("highest_precision")

RECORDING = "vila_u_tiny"
TINY = SIZES["vila_u_tiny"]
CODEBOOK = "quantizer.codebooks.{}.weight"


@pytest.fixture(scope="module")
def path(golden):
    return golden(f"{RECORDING}/checkpoint.safetensors")


@pytest.fixture(scope="module")
def tensors(path):
    return {name: np.array(x) for name, x in read_checkpoint(path).tensors.items()}


@pytest.fixture(scope="module")
def images(inputs):
    return images_of(inputs["image_u8_nhwc"])


@pytest.fixture(scope="module")
def separate(tensors, golden, tmp_path_factory):
    books = read_checkpoint(golden("vila_u_tiny/separate_codebooks.safetensors")).tensors
    assert books.keys() == {CODEBOOK.format(i) for i in range(4)}
    return written(tmp_path_factory.mktemp("separate"), tensors | dict(books))


def places(array):
    """[b, h, w, ...] as [b, n, ...]."""
    return array.reshape(len(array), -1, *array.shape[3:])


def test_separate_codebooks_are_told_from_shared_ones(separate, want, images):
    weights = read_weights(separate)
    assert weights.config == dataclasses.replace(TINY, is_shared=False)
    ids, _ = run(weights, images, "tokenize")
    np.testing.assert_array_equal(ids, places(want["separate_indices"]))
    assert want["separate_margin"].min() > 3e-2
    codes, _ = run(weights, ids, "code_vectors")
    close(codes, places(want["separate_quant_bhwc"]), 1e-6)


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


def test_a_round_trip_is_bit_exact_and_says_why_tensors_are_kept(weights, tensors):
    assert weights.config == TINY
    same_bits(export_tensors(weights), tensors)
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
    same_bits(export_tensors(found), one)
    ids, _ = run(found, images, "tokenize")
    np.testing.assert_array_equal(ids, places(want["indices"]))


def test_the_file_of_the_vision_tower_holds_the_tokenizer(tensors, weights, tmp_path):
    tower = {f"rqvaesiglip.{name}": x for name, x in tensors.items()}
    tower["rqtransformer.blocks.0.weight"] = np.zeros((2, 2), np.float16)
    found = read_weights(written(tmp_path, tower))
    assert found.dropped.keys() == {"rqtransformer.blocks.0.weight"}
    assert "the transformer over a place's codes" in found.dropped["rqtransformer.blocks.0.weight"]
    assert found.config == weights.config
    same_bits(export_tensors(found), tensors)


def test_every_key_of_the_real_encoder_and_quantiser_is_accounted_for(golden):
    tensors = published(golden, "vila_u_256_encoder_quantizer")
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
    same_bits(export_tensors(weights), encoder)
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


def test_saved_weights_keep_the_config_and_what_is_carried(weights, tensors, tmp_path):
    save_weights(tmp_path / "saved", weights)
    found = load_weights(tmp_path / "saved")
    assert found.config == weights.config
    same_bits(export_tensors(found), tensors)


def test_weights_trained_here_come_back_without_the_parts_that_are_not_used(tmp_path, caplog):
    draw = np.random.default_rng(0).standard_normal
    flat = {path: draw(shape, np.float32) for path, shape in param_shapes(TINY).items()}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    weights = Weights(TINY, params, is_scanned=False)
    with caplog.at_level(logging.WARNING):
        found = read_weights(written(tmp_path, export_tensors(weights)))
    assert "took all 3 blocks of SigLIP to run" in caplog.text
    assert found.config == TINY
    same_bits(flax.traverse_util.flatten_dict(found.params, sep="/"), flat)


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


def test_inspect_shows_the_grid_of_the_one_size_it_takes(golden, capsys):
    assert (
        convert(["inspect", str(golden("vila_u_tiny/checkpoint.safetensors")), "--num-heads=4"])
        == 0
    )
    assert "grid: 4 x 4, of images of 64 x 64 px" in capsys.readouterr().out
