"""Names from other packages give what the methods of this one give; and `save` what was loaded."""

import filecmp
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import toklip_jax
from toklip_jax.api import loading
from toklip_jax.cli.convert import main as convert
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES, shortest_side_crop
from toklip_jax.data.text import TextTokenizer
from toklip_jax.evaluation.config import EvaluationConfig
from toklip_jax.ops.pixels import to_unit_range

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def vq(faster):
    return toklip_jax.load(faster / "vq")


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_encode_image_and_encode_text_are_the_features(small, pictures):
    for normalize in ({}, {"normalize": False}):
        images = small.image_features(pictures, **normalize)
        equal(small.encode_image(pictures, **normalize), images)
        texts = small.text_features(["a dog"], **normalize)
        equal(small.encode_text(["a dog"], **normalize), texts)


def test_from_pretrained_is_load_and_expects_its_class(faster, small, vq):
    for cls, name, model in ((toklip_jax.Tokenizer, "toklip", small), (type(vq), "vq", vq)):
        other = cls.from_pretrained(faster / name)
        assert type(other) is cls
        equal(other.params, model.params)
    half = toklip_jax.Tokenizer.from_pretrained(faster / "toklip", dtype=jnp.bfloat16)
    assert half.model.compute.dtype == "bfloat16"
    with pytest.raises(
        ValueError, match=r"a LanguageModel, got .*take VQTokenizer\.from_pretrained"
    ):
        toklip_jax.LanguageModel.from_pretrained(faster / "vq")


def test_every_class_has_the_aliases_that_it_has_a_use_for():
    for name in ("Generator", "LanguageModel", "MultimodalModel", "Tokenizer", "VQTokenizer"):
        cls = getattr(toklip_jax, name)
        assert inspect.ismethod(cls.from_pretrained)
        takes_images = name != "LanguageModel"
        assert takes_images == hasattr(cls, "preprocess") == hasattr(cls, "to_pil")


def test_preprocess_gives_what_the_model_sees(small, vq, pictures, tmp_path):
    equal(small.preprocess(pictures), to_unit_range(pictures))
    image = PIL.Image.fromarray(pictures[0]).resize((40, 30))
    image.save(tmp_path / "a.png")
    seen = small.preprocess([image, tmp_path / "a.png"])
    equal(seen, np.stack([to_unit_range(shortest_side_crop(image, 16))] * 2))
    equal(small.tokenize(seen), small.tokenize([image, image]))
    equal(vq.preprocess(pictures[:, :8]), to_unit_range(pictures[:, :8]))
    assert isinstance(small.preprocess(jnp.asarray(pictures)), jax.Array)


def test_one_image_alone_gives_results_with_a_batch_axis(small, vq, pictures, tmp_path):
    image = PIL.Image.fromarray(pictures[0])
    image.save(tmp_path / "a.png")
    ids, features = small.tokenize(pictures[:1]), small.image_features(pictures[:1])
    for one in (image, tmp_path / "a.png", str(tmp_path / "a.png"), pictures[0]):
        equal(small.tokenize(one), ids)
        equal(small.image_features(one), features)
    equal(vq.tokenize(pictures[0]), vq.tokenize(pictures[:1]))


def test_to_pil_undoes_preprocess(small, pictures):
    images = small.to_pil(small.preprocess(pictures))
    equal(np.stack([np.asarray(image) for image in images]), pictures)
    (alone,) = toklip_jax.Tokenizer.to_pil(pictures[0])
    equal(np.asarray(alone), pictures[0])
    (clipped,) = small.to_pil(jnp.full((1, 2, 2, 3), 7, jnp.bfloat16))
    assert clipped.getextrema() == ((255, 255),) * 3
    for wrong in (pictures[None], pictures[0, 0], pictures[..., :2], pictures.astype(np.int32)):
        with pytest.raises(ValueError, match=r"expected images \[b, h, w, 3\] of floats"):
            small.to_pil(wrong)


def test_a_dtype_is_a_name_or_the_type_itself(faster):
    for dtype in ("bfloat16", jnp.bfloat16, np.dtype("bfloat16")):
        toklip = toklip_jax.load(faster / "toklip", dtype=dtype, param_dtype=dtype)
        assert toklip.model.compute.dtype == "bfloat16"
        assert toklip.params["text_tower"]["proj"]["kernel"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"a dtype such as jnp\.bfloat16 or 'bfloat16', got"):
        loading._dtype_name(object())  # as another framework's types are


def test_the_released_evaluation_s_resize_is_the_default_everywhere():
    """It takes the centre square; the released training squashes."""
    assert DEFAULT_RESIZE == "crop"
    assert RESIZES[DEFAULT_RESIZE] is shortest_side_crop
    assert EvaluationConfig().resize == DEFAULT_RESIZE
    for cls in (toklip_jax.Tokenizer, toklip_jax.VQTokenizer, toklip_jax.Generator):
        parameters = inspect.signature(cls.from_weights).parameters
        assert parameters["resize"].default == DEFAULT_RESIZE
    for page, claim in {
        "README.md": "resized and cropped to their centre, as the released evaluation does",
        "docs/evaluation.md": "is `crop` unless it says `squash`",
        "docs/reliability.md": "cropped to their centre, as the released evaluation does",
    }.items():
        assert claim in " ".join((ROOT / page).read_text().split()), page


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def test_save_writes_what_convert_writes(toklip, path, tmp_path):
    assert convert(["to-jax", str(path), str(tmp_path / "converted")]) == 0
    toklip.save(tmp_path / "saved")
    assert files(tmp_path / "saved") == files(tmp_path / "converted")
    for name in files(tmp_path / "saved"):
        assert filecmp.cmp(tmp_path / "saved" / name, tmp_path / "converted" / name, False), name


def test_what_is_saved_is_loaded_to_the_bit(faster, small, tmp_path):
    small.save(tmp_path / "saved")
    again = toklip_jax.load(tmp_path / "saved")
    assert again.config == small.config
    equal(again.params, small.params)
    assert again.text_features(["a dog"]).shape == (1, 16)
    text, kept = (TextTokenizer.load(d, 6) for d in (tmp_path / "saved", faster / "toklip"))
    assert text.fingerprint == kept.fingerprint
    assert "carried.safetensors" in files(tmp_path / "saved")
    with pytest.raises(FileExistsError, match="exists: choose another name"):
        small.save(tmp_path / "saved")
    equal(toklip_jax.load(tmp_path / "saved").params, small.params)


def test_half_precision_and_another_size_are_saved_as_they_are(faster, tmp_path):
    options = {"param_dtype": "bfloat16", "image_size": 32}
    toklip = toklip_jax.load(faster / "toklip", **options)
    toklip.save(tmp_path / "saved")
    again = toklip_jax.load(tmp_path / "saved", param_dtype="bfloat16")
    assert again.config == toklip.config
    equal(again.params, toklip.params)


def test_a_language_model_is_saved_with_the_files_beside_it(golden, tmp_path):
    source = tmp_path / "qwen"
    source.mkdir()
    checkpoint = golden("qwen2_tiny/checkpoint_tied.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(checkpoint)
    (source / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    model = toklip_jax.load(source, num_heads=4)
    model.save(tmp_path / "saved")
    again = toklip_jax.load(tmp_path / "saved")
    assert again.stop_ids == model.stop_ids == (3, 5)
    equal(again.params, model.params)


def test_traced_parameters_are_not_saved(small, tmp_path):
    def save(params):
        small.with_params(params).save(tmp_path / "saved")
        return 0

    with pytest.raises(ValueError, match="save outside of transformations"):
        jax.eval_shape(save, small.params)
    assert not (tmp_path / "saved").exists()
