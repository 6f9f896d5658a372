"""The public API, as a user holds it."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import toklip_jax
from toklip_jax.api.program import _run
from toklip_jax.data.images import squash
from toklip_jax.data.text import TextTokenizer, train_tokenizer

ATOL = 2e-5  # as the recordings' README recommends; images 1e-4


def test_the_three_lines_give_the_recorded_outputs(toklip, inputs, want):
    ids = toklip.tokenize(inputs["image_u8_nhwc"])
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, want["vq_indices"])
    tokens = toklip.semantic_tokens(ids)
    assert tokens.dtype == np.float32
    np.testing.assert_allclose(tokens, want["tokens"], atol=ATOL, rtol=1e-5)
    image = toklip.detokenize(ids)
    assert (image.shape, image.dtype) == ((4, 64, 64, 3), np.float32)
    assert np.abs(image).max() <= 1


def test_features_and_similarity_are_the_recorded_ones(toklip, inputs, want):
    by_ids = toklip.image_features(ids=want["vq_indices"])
    by_images = toklip.image_features(inputs["image_u8_nhwc"])
    np.testing.assert_allclose(by_ids, want["image_feature_norm"], atol=ATOL)
    np.testing.assert_array_equal(by_ids, by_images)
    raw = toklip.image_features(ids=want["vq_indices"], normalize=False)
    np.testing.assert_allclose(raw, want["image_feature"], atol=ATOL, rtol=1e-5)
    text = toklip.text_features(inputs["token_ids"])
    np.testing.assert_allclose(text, want["text_feature_norm"], atol=ATOL)
    logits = toklip.similarity(by_ids, text)
    np.testing.assert_allclose(logits, want["image_logits"], atol=ATOL, rtol=1e-5)


def test_features_of_prefixes_end_in_those_of_all_ids(small, pictures):
    ids = small.tokenize(pictures)
    n = ids.shape[1]
    features = small.prefix_features(ids, (1, n))
    np.testing.assert_allclose(features[:, -1], small.image_features(ids=ids), atol=1e-6)
    changed = np.asarray(ids).copy()
    changed[:, 1:] = 0
    np.testing.assert_allclose(small.prefix_features(changed, (1,)), features[:, :1], atol=1e-6)
    with pytest.raises(ValueError, match=rf"expected counts in \[1, {n}\], got \(0,\)"):
        small.prefix_features(ids, (0,))
    for wrong in ("3", 3, (1.5,)):
        with pytest.raises(ValueError, match="expected counts as whole numbers"):
            small.prefix_features(ids, wrong)


def test_uint8_floats_and_pillow_images_give_the_same_ids(toklip, inputs):
    images = inputs["image_u8_nhwc"]
    ids = toklip.tokenize(images)
    np.testing.assert_array_equal(toklip.tokenize(inputs["image_nhwc"]), ids)
    pillow = [PIL.Image.fromarray(image) for image in images]
    np.testing.assert_array_equal(toklip.tokenize(pillow), ids)


def test_each_method_compiles_once_a_shape(toklip, want):
    ids = want["vq_indices"]
    toklip.semantic_tokens(ids)
    count = _run._cache_size()
    for _ in range(3):
        toklip.semantic_tokens(ids)
    assert _run._cache_size() == count
    toklip.semantic_tokens(ids[:1])
    assert _run._cache_size() == count + 1


def test_bfloat16_keeps_ids_and_stays_near(path, toklip, inputs, want):
    low = toklip_jax.load(path, dtype="bfloat16")
    np.testing.assert_array_equal(low.tokenize(inputs["image_u8_nhwc"]), want["vq_indices"])
    features = low.image_features(ids=want["vq_indices"])
    assert features.dtype == np.float32
    assert (np.sum(features * want["image_feature_norm"], -1) > 0.999).all()


@pytest.mark.plain
def test_another_image_size_resamples_the_position_table(path, inputs):
    larger = toklip_jax.load(path, image_size=96)
    ids = larger.tokenize([PIL.Image.fromarray(inputs["image_u8_nhwc"][0])])
    assert ids.shape == (1, 36)
    assert larger.semantic_tokens(ids).shape == (1, 36, 64)
    assert larger.detokenize(ids).shape == (1, 96, 96, 3)
    with pytest.raises(ValueError, match="image_size"):
        toklip_jax.load(path, image_size=100)


def test_text_goes_through_the_tokenizer_given(path, tmp_path):
    tokenizer = TextTokenizer(train_tokenizer(["a dog", "two cats"], 64), 16)
    toklip = toklip_jax.load(path, tokenizer=tokenizer.save(tmp_path))
    features = toklip.text_features(["a dog", "two cats"])
    np.testing.assert_array_equal(features, toklip.text_features(tokenizer(["a dog", "two cats"])))
    np.testing.assert_allclose(toklip.text_features("a dog"), features[:1], atol=1e-6)


def test_a_tokenizer_of_more_ids_than_the_model_s_is_refused_when_loading(faster, tmp_path):
    words = [f"w{i}" for i in range(600)]
    vocab = {name: i for i, name in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    Tokenizer(WordLevel(vocab, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"at most \d+ ids, the model's .*got one of 603"):
        toklip_jax.load(faster / "toklip", tokenizer=tmp_path)


def test_pillow_images_are_cropped_unless_load_says_squash(faster, small):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    ids = small.tokenize([PIL.Image.fromarray(wide)])
    np.testing.assert_array_equal(ids, small.tokenize(wide[None, :, 16:32]))
    squashing = toklip_jax.load(faster / "toklip", resize="squash")
    squashed = squash(PIL.Image.fromarray(wide), 16)
    np.testing.assert_array_equal(
        squashing.tokenize([PIL.Image.fromarray(wide)]), small.tokenize(squashed[None])
    )
    with pytest.raises(ValueError, match="did you mean 'crop'"):
        toklip_jax.load(faster / "toklip", resize="cropped")


def test_values_on_a_device_are_checked_the_first_time(faster, pictures):
    toklip = toklip_jax.load(faster / "toklip")
    images = jnp.asarray(pictures)
    with pytest.warns(UserWarning, match=r"look like \[0, 1\]"):
        ids = toklip.tokenize(images / 255)
    with pytest.raises(ValueError, match=r"expected ids in \[0, "):
        toklip.semantic_tokens(jnp.full(ids.shape, 10**6))
    toklip.semantic_tokens(ids)
    with jax.transfer_guard_device_to_host("disallow_explicit"):  # from here on nothing is fetched
        toklip.semantic_tokens(jnp.full(ids.shape, 10**6))


def test_text_without_a_tokenizer_is_a_clear_error(toklip):
    with pytest.raises(ValueError, match=r"no text tokenizer: pass load\(..., tokenizer=PATH\)"):
        toklip.text_features(["a dog"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), r"expected images \[b, 64, 64, 3\], got"),
        (np.zeros((64, 64), np.uint8), "pass a batch of RGB images"),
        (np.zeros((1, 3, 64, 64), np.uint8), "move the channels last"),
        (np.zeros((1, 64, 64, 3), np.int64), "got int64"),
        (np.full((1, 64, 64, 3), 255.0), "pass uint8, or scale them"),
        (np.full((1, 64, 64, 3), np.nan), "floats in"),
        ([], "got none"),
    ],
)
def test_wrong_images_are_refused(toklip, images, message):
    with pytest.raises(ValueError, match=message):
        toklip.tokenize(images)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros((1, 15), np.int32), r"expected integer ids \[b, 16\]"),
        (np.zeros((16,), np.int32), r"expected integer ids \[b, 16\]"),
        (np.zeros((1, 16), np.float32), "got float32"),
        (np.full((1, 16), 512, np.int32), r"expected ids in \[0, 512\)"),
        (np.full((1, 16), -1, np.int32), r"expected ids in \[0, 512\)"),
    ],
)
def test_wrong_ids_are_refused(toklip, ids, message):
    for method in (toklip.semantic_tokens, toklip.detokenize, toklip.code_vectors):
        with pytest.raises(ValueError, match=message):
            method(ids)
    with pytest.raises(ValueError, match=message):
        toklip.image_features(ids=ids)


def test_wrong_token_ids_are_refused(toklip):
    with pytest.raises(ValueError, match=r"expected token ids \[b, 16\]"):
        toklip.text_features(np.zeros((1, 8), np.int32))
    with pytest.raises(ValueError, match=r"token ids in \[0, 512\)"):
        toklip.text_features(np.full((1, 16), 600))
    with pytest.raises(ValueError, match="got none: pass at least one"):
        toklip.text_features([])
    with pytest.raises(ValueError, match=r"got int32 \(16,\): add a batch axis with ids\[None\]"):
        toklip.semantic_tokens(np.zeros(16, np.int32))
    with pytest.raises(ValueError, match="either images or ids"):
        toklip.image_features()


def test_other_weights_are_refused(golden, tmp_path):
    with pytest.raises(ValueError, match="expected the weights of TokLIP"):
        toklip_jax.load(golden("teacher_tiny/checkpoint.safetensors"))
    with pytest.raises(FileNotFoundError, match="found nothing"):
        toklip_jax.load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="expected a dtype"):
        toklip_jax.load(golden("toklip_tiny/checkpoint.pt"), dtype="float8")
    for given in ({"path": ""}, {"path": "x", "vq": ""}, {"path": "x", "tokenizer": ""}):
        with pytest.raises(ValueError, match=r"expected a path or a name for .*, got ''"):
            toklip_jax.load(**given)


def test_load_names_its_arguments_where_one_is_unknown(golden):
    with pytest.raises(ValueError, match=r"expected an argument of load among .*'dtype'.*'device'"):
        toklip_jax.load(golden("toklip_tiny/checkpoint.pt"), device="cpu")
    with pytest.raises(ValueError, match="did you mean 'num_heads'"):
        toklip_jax.load(golden("toklip_tiny/checkpoint.pt"), num_head=4)


def test_load_takes_dtypes_and_paths_with_a_home(golden, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(golden("toklip_tiny/checkpoint.pt"), tmp_path / "weights.pt")
    toklip = toklip_jax.load("~/weights.pt", dtype=jnp.bfloat16, param_dtype=np.dtype("float16"))
    assert toklip.model.compute.dtype == "bfloat16"
    assert toklip.params["token_encoder"]["pos_embed"].dtype == jnp.float16
