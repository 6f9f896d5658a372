"""`toklip_jax.load` gives what the file is: a VQ tokenizer alone."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import toklip_jax


@pytest.fixture(scope="module")
def path(faster):
    return faster / "vq"


@pytest.fixture(scope="module")
def vq(path):
    return toklip_jax.load(path)


@pytest.fixture(scope="module")
def images(pictures):
    return pictures


def test_a_vq_file_gives_a_vq_tokenizer(vq, images):
    assert type(vq) is toklip_jax.VQTokenizer
    ids = vq.tokenize(images)
    assert (ids.shape, ids.dtype) == ((4, 16), np.int32)
    codes = vq.code_vectors(ids)
    assert codes.shape == (4, 16, vq.config.code_dim)
    np.testing.assert_allclose(vq.encode(images), codes, atol=1e-6)
    restored = vq.detokenize(ids)
    assert restored.shape == (4, 16, 16, 3)
    assert float(jnp.abs(restored).max()) <= 1
    assert repr(vq) == "VQTokenizer(llamagen, ids of 16, width 4, 0.2 M parameters, float32)"


def test_a_place_with_several_ids_shows_in_what_people_read(golden):
    vq = toklip_jax.load(golden("vila_u_tiny/checkpoint.safetensors"))
    assert "4 ids of 256 a place" in repr(vq)


def test_images_of_any_size_with_a_grid_are_taken(vq, images):
    ids = vq.tokenize(images[:, :8])
    assert ids.shape == (4, 8)
    assert vq.detokenize(ids, grid=(2, 4)).shape == (4, 8, 16, 3)
    with pytest.raises(ValueError, match="grid"):
        vq.detokenize(ids)
    with pytest.raises(ValueError, match=r"integer ids \[b, 12\], got int32 \(4, 8\)"):
        vq.detokenize(ids, grid=(3, 4))
    with pytest.raises(ValueError, match="divisible by 4, got 9x16"):
        vq.tokenize(images[:, :9])


def test_an_image_size_decides_size_and_grid(path, vq, images):
    wide = toklip_jax.load(path, image_size=(8, 16), batch_size=3)
    ids = wide.tokenize(images[:, :8])
    np.testing.assert_array_equal(ids, vq.tokenize(images[:, :8]))
    assert wide.detokenize(ids).shape == (4, 8, 16, 3)
    assert wide.tokenize([PIL.Image.fromarray(images[0])]).shape == (1, 8)
    with pytest.raises(ValueError, match=r"expected images \[b, 8, 16, 3\]"):
        wide.tokenize(images)
    with pytest.raises(ValueError, match="divisible by 4"):
        toklip_jax.load(path, image_size=10)


def test_its_methods_are_traced(vq, images):
    ids = vq.tokenize(images)
    np.testing.assert_array_equal(jax.jit(vq.tokenize)(jnp.asarray(images)), ids)
    np.testing.assert_allclose(jax.jit(vq.detokenize)(ids), vq.detokenize(ids), atol=1e-4)
    pure = jax.jit(lambda params: vq.apply(params, ids, "detokenize"))(vq.params)
    np.testing.assert_allclose(jnp.clip(pure, -1, 1), vq.detokenize(ids), atol=1e-4)
    pixels = jnp.zeros((1, 8, 8, 3))
    assert float(jnp.abs(jax.grad(lambda x: vq.encode(x).sum())(pixels)).max()) > 0


def test_arguments_without_a_use_are_refused(path):
    with pytest.raises(ValueError, match="expected no tokenizer with the weights of LlamaGen"):
        toklip_jax.load(path, tokenizer="tokenizer.json")


def test_lower_types_are_obeyed(path, vq, images):
    low = toklip_jax.load(path, dtype="bfloat16", param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(low.params)} == {jnp.dtype("bfloat16")}
    ids = vq.tokenize(images)
    error = np.abs(np.asarray(low.detokenize(ids)) - np.asarray(vq.detokenize(ids)))
    assert 1e-4 < error.max() < 0.1
