"""VILA-U's tokenizer against the recordings of its PyTorch code, and its files both ways.

Bounds as the recordings' README says: noise of float32 against float64 is below 5e-6.
"""

import dataclasses
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from tests.models.stages import close, nhwc, run
from tests.models.vq_recordings import images_of
from toklip_jax.models.registry import build_model
from toklip_jax.models.vila_u.config import VilaUConfig
from toklip_jax.models.vila_u.sizes import SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.ops.nearest import nearest_code
from toklip_jax.ops.resample import resize_images

pytestmark = pytest.mark.usefixtures("highest_precision")

RECORDING = "vila_u_tiny"
TINY = SIZES["vila_u_tiny"]


@pytest.fixture(scope="module")
def images(inputs):
    return images_of(inputs["image_u8_nhwc"])


@pytest.fixture(scope="module")
def recorded_config(golden):
    return json.loads(golden("vila_u_tiny/config.json").read_text())


def places(array):
    """[b, h, w, ...] as [b, n, ...]."""
    return array.reshape(len(array), -1, *array.shape[3:])


def test_encoder_equals_the_recorded_stages_up_to_the_last_block_but_one(weights, want, images):
    ids, inner = run(weights, images, "tokenize")
    encoder = inner["encoder"]
    embedded = encoder["patch_embed"]["__call__"][0].reshape(4, 16, 64)
    close(embedded + np.float32(weights.params["encoder"]["pos_embed"]), want["embeddings"])
    for i in range(3):
        close(encoder["stack"][f"blocks_{i}"]["__call__"][0][0], want[f"layer{i}"])
    assert set(encoder["stack"]) == {"__call__", "blocks_0", "blocks_1", "blocks_2"}
    close(encoder["__call__"][0], places(want["prequant_bhwc"]))
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids, places(want["indices"]))
    assert want["margin"].min() > 3e-2  # so that equal ids are no luck


def test_a_scanned_encoder_gives_the_same_ids(weights, want, images):
    ids, _ = run(weights.with_layout(True), images, "tokenize", compute=Compute(is_scanned=True))
    np.testing.assert_array_equal(ids, places(want["indices"]))


def test_code_vectors_equal_the_recorded_sums(weights, want, images):
    ids = places(want["indices"])
    codes, _ = run(weights, ids, "code_vectors")
    close(codes, places(want["embed_code"]), 1e-6)
    through, _ = run(weights, images, "encode")
    close(through, places(want["quant_bhwc"]), 1e-6)

    def rows(model, ids):
        return jnp.stack(model.quantiser._rows(ids), axis=2)

    of_depths, _ = run(weights, ids, rows)
    close(of_depths, places(want["code_emb_with_depth"]), 1e-6)
    cumulative = places(want["quant_per_depth_cumulative"])
    close(jnp.cumsum(of_depths, axis=2), cumulative, 1e-6)


def test_decoded_images_equal_the_recorded_ones(weights, want):
    ids = places(want["indices"])
    decoded, _ = run(weights, ids, "detokenize")
    close(decoded, nhwc(want["decoded_fp32"]), 1e-4)
    # The published code decodes in bfloat16: ours does where it is asked to.
    low = Compute(vq_dtype="bfloat16", is_scanned=False)
    decoded, _ = run(weights, ids[:1], "detokenize", compute=low)
    assert decoded.dtype == jnp.float32
    close(decoded, nhwc(want["decoded_bf16_as_fp32"]), 0.15)


def test_codes_are_resized_before_they_are_decoded_if_the_config_says_so(weights, want):
    quant = want["quant_bhwc"][:1]
    resized = resize_images(jnp.asarray(quant), 8, 8)
    close(resized, nhwc(want["latent8_interpolated_nchw"]), 1e-6)
    ids = places(want["indices"])[:1]
    decoded, _ = run(weights, ids, "detokenize", decoder_grid=8)
    assert decoded.shape == (1, 128, 128, 3)
    corner = nhwc(want["latent8_decoded_fp32_image0_topleft64"])
    close(decoded[:, :64, :64], corner, 1e-4)
    with pytest.raises(ValueError, match=r"expected ids of the grid \(4, 4\)"):
        run(weights, ids, lambda m, ids: m.detokenize(ids, (2, 8)), decoder_grid=8)
    with pytest.raises(ValueError, match=r"size \(128, 128\) that the decoder gives, got \(64, 64"):
        run(weights, np.zeros((1, 64, 64, 3), np.float32), decoder_grid=8)


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
    close(out.images, nhwc(want["decoded_fp32"]), 1e-4)
    close(out.latents, places(want["prequant_bhwc"]))
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


def test_it_loads_as_a_tokenizer(golden, inputs, want):
    vq = toklip_jax.load(golden(f"{RECORDING}/checkpoint.safetensors"))
    ids = vq.tokenize(inputs["image_u8_nhwc"])
    assert (ids.shape, vq.config.codebook_sizes) == ((4, 16, 4), (256,) * 4)
    np.testing.assert_array_equal(ids, places(want["indices"]))
    close(vq.code_vectors(ids), places(want["embed_code"]), 1e-6)
    decoded = vq.detokenize(ids)
    close(decoded, np.clip(nhwc(want["decoded_fp32"]), -1, 1), 1e-4)
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
