"""Videos go through the methods that images do, where the tokenizer takes both."""

import dataclasses
import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toklip_jax
from toklip_jax.api.inputs import Images
from toklip_jax.models.emu3.config import Emu3Config
from toklip_jax.models.llamagen import LlamaGenConfig
from toklip_jax.models.registry import param_shapes
from toklip_jax.nn.config import Compute
from toklip_jax.weights import Weights, save_weights

CONFIG = Emu3Config(16, 4, 32, (1, 1), num_res_blocks=1, attention_levels=())
T, H, W = 8, 4, 6
GRID = (2, 2, 3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng, params = np.random.default_rng(0), {}
    for name, shape in param_shapes(CONFIG).items():
        params[name] = np.full(shape, name.endswith(("scale", "var")), np.float32)
        if name.endswith(("kernel", "codebook")):
            params[name] = np.float32(rng.normal(0, math.prod(shape[:-1]) ** -0.5, shape))
    params["encoder/conv_out/kernel"] *= 4  # so that ids differ
    params = flax.traverse_util.unflatten_dict(params, sep="/")
    path = tmp_path_factory.mktemp("emu3") / "weights"
    save_weights(path, Weights(CONFIG, params, is_scanned=False))
    return path


@pytest.fixture(scope="module")
def vq(path):
    return toklip_jax.load(path)


@pytest.fixture(scope="module")
def videos():
    return np.random.default_rng(1).integers(0, 256, (3, T, H, W, 3), np.uint8)


def test_a_video_becomes_ids_and_a_video_again(vq, videos):
    ids = vq.tokenize(videos)
    assert (ids.shape, ids.dtype) == ((3, 12), jnp.int32)
    assert len(np.unique(ids)) > 2
    codes = vq.code_vectors(ids)
    assert codes.shape == (3, 12, 4)
    np.testing.assert_allclose(vq.encode(videos), codes, atol=1e-5)
    restored = vq.detokenize(ids, grid=GRID)
    assert restored.shape == videos.shape
    assert float(jnp.abs(restored).max()) <= 1


def test_images_go_through_the_same_methods(vq, videos):
    images = videos[:, 0, :, :4]
    ids = vq.tokenize(images)
    assert ids.shape == (3, 4)
    restored = vq.detokenize(ids)  # of a square
    assert restored.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(vq.detokenize(ids, grid=(2, 2)), restored)
    frames = vq.detokenize(ids, grid=(1, 2, 2))
    assert frames.shape == (3, 4, 4, 4, 3)
    np.testing.assert_allclose(frames[:, 0], restored, atol=1e-5)
    repeated = np.repeat(images[:, None], 4, axis=1)
    np.testing.assert_array_equal(vq.tokenize(repeated), ids)


def test_chunks_floats_and_arrays_on_a_device_give_the_same_ids(path, vq, videos):
    ids = vq.tokenize(videos)
    chunked = toklip_jax.load(path, batch_size=2)
    np.testing.assert_array_equal(chunked.tokenize(videos), ids)
    np.testing.assert_allclose(
        chunked.detokenize(ids, grid=GRID), vq.detokenize(ids, grid=GRID), atol=1e-5
    )
    np.testing.assert_array_equal(vq.tokenize(jnp.asarray(videos)), ids)
    np.testing.assert_array_equal(jax.jit(vq.tokenize)(jnp.asarray(videos)), ids)


def test_an_image_size_may_be_that_of_a_video(path, vq, videos):
    sized = toklip_jax.load(path, image_size=(T, H, W))
    ids = sized.tokenize(videos)
    np.testing.assert_array_equal(ids, vq.tokenize(videos))
    assert sized.detokenize(ids).shape == videos.shape
    with pytest.raises(ValueError, match=r"expected videos \[b, 8, 4, 6, 3\], got \(3, 4, 4, 6, 3"):
        sized.tokenize(videos[:, :4])
    of_images = toklip_jax.load(path, image_size=(H, W))
    with pytest.raises(
        ValueError, match=r"images \[b, 4, 6, 3\], .* pass frames as images, .* without image_size"
    ):
        of_images.tokenize(videos)


def test_three_axes_are_one_image_and_four_a_batch_of_images(vq, videos):
    ids = vq.tokenize(videos[0, 0])
    np.testing.assert_array_equal(ids, vq.tokenize(videos[0, :1]))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (np.s_[:, :6], "number of frames divisible by 4, got 6 frames: cut them, or repeat"),
        (np.s_[:, :, :3], "frames with sides divisible by 2, got 3x6: resize them"),
        (np.s_[:, 0, :3], "image sides divisible by 2, got 3x6: resize them"),
        (
            np.s_[0, 0, 0],
            r"expected images \[b, h, w, 3\] or videos \[b, frames, h, w, 3\], got \(",
        ),
        (np.s_[:0], "pass a batch of RGB images or videos"),
        (np.s_[None], "pass a batch of RGB images or videos"),
        (np.s_[..., :2], "convert them to RGB"),
    ],
)
def test_videos_that_dont_fit_say_what_to_do(part, message, vq, videos):
    with pytest.raises(ValueError, match=message) as caught:
        vq.tokenize(videos[part])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "back"), [((0, 1, 4, 2, 3), (0, 1, 3, 4, 2)), ((0, 4, 1, 2, 3), (0, 2, 3, 4, 1))]
)
def test_channels_in_another_place_are_told(axes, back, vq, videos):
    moved = videos.transpose(axes)
    with pytest.raises(ValueError, match=rf"transpose\({', '.join(map(str, back))}\)"):
        vq.tokenize(moved)
    np.testing.assert_array_equal(moved.transpose(back), videos)


@pytest.mark.parametrize("size", [None, (4, 6)])
def test_a_tokenizer_of_images_says_that_it_takes_no_videos(size, videos):
    kind = Images(LlamaGenConfig(multipliers=(1, 1)), size)
    with pytest.raises(ValueError, match="it takes no videos; pass frames as images, with videos"):
        kind.check(videos)
    frames = videos.reshape(-1, *videos.shape[2:])  # the advice
    assert kind.check(frames) is frames


def test_a_tokenizer_of_images_refuses_the_size_of_a_video():
    config = LlamaGenConfig(codebook_size=16, channels=32, multipliers=(1, 1), z_channels=32)
    with pytest.raises(ValueError, match=r"expected the size of an image.* takes no videos"):
        toklip_jax.VQTokenizer(config, {}, Compute(), image_size=(4, 4, 4))


@pytest.mark.parametrize("grid", [(12,), (1, 2, 2, 3), (0, 3, 4)])
def test_a_grid_has_two_or_three_sides(grid, vq):
    with pytest.raises(ValueError, match="expected a grid of 2 or 3 whole numbers of at least 1"):
        vq.detokenize(np.zeros((1, 12), np.int32), grid=grid)


def test_ids_of_another_number_than_the_grids_are_refused(vq):
    with pytest.raises(ValueError, match=r"expected integer ids \[b, 12\], got int32 \(1, 8\)"):
        vq.detokenize(np.zeros((1, 8), np.int32), grid=GRID)


@dataclasses.dataclass(frozen=True)
class OnlyVideos:
    """Of a tokenizer that takes no images."""

    codes_per_place = 1
    codebook_sizes = (4,)
    code_dim = 2
    licence = ""
    smallest_size = (2, 4, 4)

    def grid_of(self, *size):
        return size[0] // 2, size[1] // 4, size[2] // 4


def test_a_tokenizer_of_videos_alone_takes_no_images(videos):
    kind = Images(OnlyVideos(), None)
    assert kind.check(videos[:, :, :4, :4]).shape == (3, 8, 4, 4, 3)
    with pytest.raises(
        ValueError, match=r"expected videos \[b, frames, h, w, 3\], got \(4, 6, 3\)"
    ):
        kind.check(videos[0, 0])
