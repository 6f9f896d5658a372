"""`batch_size`: large inputs in chunks, one program, the same results."""

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import toklip_jax
from toklip_jax.api.program import _run

ATOL = 1e-5  # the batch's shape decides how sums are ordered


@pytest.fixture(scope="module")
def chunked(faster):
    return toklip_jax.load(faster / "toklip", batch_size=3)


@pytest.fixture(scope="module")
def ids(small, pictures):
    return np.asarray(small.tokenize(pictures))


def test_chunks_give_what_the_whole_gives(chunked, small, pictures, ids):
    np.testing.assert_array_equal(chunked.tokenize(pictures), ids)
    for method in ("semantic_tokens", "code_vectors", "detokenize"):
        got, whole = getattr(chunked, method)(ids), getattr(small, method)(ids)
        np.testing.assert_allclose(got, whole, atol=ATOL)
    features = small.image_features(pictures)
    np.testing.assert_allclose(chunked.image_features(pictures), features, atol=ATOL)
    token_ids = np.arange(24).reshape(4, 6)
    text = chunked.text_features(token_ids)
    np.testing.assert_allclose(text, small.text_features(token_ids), atol=ATOL)


def test_one_program_does_for_all_numbers_of_rows(chunked, pictures, ids):
    images = pictures
    chunked.image_features(images)
    chunked.semantic_tokens(ids)
    count = _run._cache_size()
    for rows in (1, 2, 3, 4):
        np.testing.assert_array_equal(chunked.tokenize(images[:rows]), ids[:rows])
        assert chunked.image_features(images[:rows]).shape == (rows, 16)
        assert chunked.semantic_tokens(ids[:rows]).shape == (rows, 16, 16)
    assert _run._cache_size() == count


def test_pictures_are_resized_chunk_by_chunk(chunked, pictures, ids, monkeypatch):
    sizes = []
    stack = np.stack
    monkeypatch.setattr(np, "stack", lambda x, *a: sizes.append(len(x)) or stack(x, *a))
    pillow = [PIL.Image.fromarray(image) for image in pictures]
    np.testing.assert_array_equal(chunked.tokenize(pillow), ids)
    assert sizes == [3, 1]


def test_arrays_on_a_device_are_taken_in_chunks_too(chunked, ids):
    codes = chunked.code_vectors(ids)
    np.testing.assert_array_equal(chunked.code_vectors(jnp.asarray(ids)), codes)


def test_an_error_names_the_inputs_before_anything_is_computed(chunked, ids):
    wrong = ids.copy()
    wrong[-1, -1] = 16
    with pytest.raises(ValueError, match=r"expected ids in \[0, 16\), got 0 to 16"):
        chunked.semantic_tokens(wrong)
    with pytest.raises(ValueError, match=r"got none, .*: pass at least one"):
        chunked.semantic_tokens(ids[:0])


def test_a_batch_size_below_1_is_refused(faster):
    with pytest.raises(ValueError, match="batch_size of at least 1"):
        toklip_jax.load(faster / "toklip", batch_size=0)
