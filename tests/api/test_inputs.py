"""The checks of what users pass, each in its one place."""

import dataclasses
import pathlib
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import PIL.Image
import pytest

from toklip_jax.api import inputs as api_inputs
from toklip_jax.api.inputs import Ids, Images, Vectors
from toklip_jax.data.images import shortest_side_crop, squash
from toklip_jax.models.llamagen import LlamaGenConfig
from toklip_jax.ops.pixels import to_unit_range

VQ = LlamaGenConfig(multipliers=(1,), stem_patch=8)
GRADIENT = PIL.Image.fromarray(
    np.stack(np.meshgrid(np.arange(120), np.arange(80), [0]), -1)[:, :, 0].astype(np.uint8)
)
LEVELS = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Other:
    """A VQ tokenizer's config with conventions of its own."""

    codes_per_place = 2
    codebook_sizes = (4, 8)
    code_dim = 5
    licence = ""
    smallest_size = (8, 8)

    def grid_of(self, *size):
        return tuple(side // 8 for side in size)


def images_of(*size, vq=VQ, **options):
    return Images(vq, size or None, **options)


def taken(inputs, kind):
    return kind.prepare(kind.check(inputs))


def test_images_are_taken_as_uint8_float_or_pillow():
    kind, expected = images_of(16, 16), to_unit_range(LEVELS)
    pillow = [PIL.Image.fromarray(image) for image in LEVELS]
    for images in (LEVELS, expected, expected.astype(np.float64), pillow, list(LEVELS)):
        got = taken(images, kind)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    half = taken(expected.astype(ml_dtypes.bfloat16), kind)
    np.testing.assert_allclose(half, expected, atol=0.005)
    np.testing.assert_array_equal(
        taken([GRADIENT], kind)[0], to_unit_range(shortest_side_crop(GRADIENT, (16, 16)))
    )


def test_bytes_become_the_same_floats_on_a_device_as_on_the_host():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    for vq in (VQ, Other()):
        kind = images_of(16, 16, vq=vq)
        expected = taken(levels, kind)
        np.testing.assert_array_equal(taken(jnp.asarray(levels), kind), expected)
        np.testing.assert_array_equal(jax.jit(kind.prepare)(levels), expected)
        assert (expected.min(), expected.max()) == (-1, 1)


def test_pictures_are_cropped_unless_they_are_to_be_squashed():
    for options, resize in (({}, shortest_side_crop), ({"resize": "squash"}, squash)):
        got = taken([GRADIENT], images_of(8, 24, **options))
        assert got.shape == (1, 8, 24, 3)
        np.testing.assert_array_equal(got[0], to_unit_range(resize(GRADIENT, (8, 24))))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((4, 256, 256, 3)),
            r"\[b, 384, 384, 3\], got \(4, 256, 256, 3\): resize them, or",
        ),
        (np.zeros((4, 384, 256, 3)), "resize them"),
        (np.zeros((256, 256, 3)), r"got \(1, 256, 256, 3\): resize them"),
        (np.zeros((384, 384)), "pass a batch of RGB images"),
        (np.zeros((2, 3, 384, 384)), "transpose"),
        (np.zeros((2, 384, 384, 4)), "RGB"),
        (np.zeros((0, 384, 384, 3)), "batch"),
        (np.zeros((2, 384, 384, 3), np.int32), "uint8, or float .*: convert them to uint8"),
        (np.zeros((2, 16), np.int32), "if they are ids, pass ids="),
        (np.full((1, 384, 384, 3), 255.0), r"from 255 to 255: pass uint8"),
        (np.full((1, 384, 384, 3), np.nan), "NaN among them"),
        ([], "at least one"),
        ([np.zeros((384, 384, 3)), np.zeros((3, 3, 3))], "resize them alike"),
        ([GRADIENT, "x.png"], r"found no file x\.png: check the path"),
        ("x.png", r"found no file x\.png"),
        ("", "found no file '': check the path"),
        ([pathlib.Path("x.png")], r"found no file x\.png"),
        (np.array(["x.png"]), "got text: pass paths as a list"),
        ((image for image in [GRADIENT]), "got objects: pass paths as a list"),
        ([PIL.Image.new("RGB", (0, 0))], "without pixels"),
    ],
)
def test_wrong_images_say_what_to_do(images, message):
    with pytest.raises(ValueError, match=message) as caught:
        images_of(384, 384).check(images)
    assert "\n" not in str(caught.value)


def test_one_image_alone_is_a_batch_of_one(tmp_path):
    GRADIENT.save(path := tmp_path / "a.png")
    kind, cropped = images_of(16, 16), shortest_side_crop(GRADIENT, (16, 16))
    for image in (GRADIENT, path, str(path), cropped, jnp.asarray(cropped), to_unit_range(cropped)):
        got = taken(image, kind)
        assert got.shape == (1, 16, 16, 3)
        np.testing.assert_array_equal(got, to_unit_range(cropped)[None])
    assert jax.eval_shape(kind.check, jax.ShapeDtypeStruct((16, 16, 3), np.uint8)).ndim == 4


def test_files_are_opened_a_chunk_at_a_time_and_mix_with_pictures(tmp_path, monkeypatch):
    GRADIENT.save(path := tmp_path / "a.png")
    kind, opened = images_of(16, 16), []
    read = api_inputs.read_image
    monkeypatch.setattr(api_inputs, "read_image", lambda path: opened.append(path) or read(path))
    checked = kind.check([path, GRADIENT, str(path)])
    assert not opened
    one, other, last = kind.prepare(checked)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, last)
    assert opened == [path, path]
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(ValueError, match=r"expected an image of .*b\.png"):
        kind.prepare(kind.check(str(tmp_path / "b.png")))


def test_videos_and_rectangles_are_checked_like_squares():
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 6, 3), np.uint8)
    kind = images_of(3, 8, 6)
    np.testing.assert_array_equal(taken(video, kind), to_unit_range(video))
    with pytest.raises(ValueError, match=r"\[b, 3, 8, 6, 3\], got \(3, 8, 6, 3\): add a batch"):
        kind.check(video[0])
    with pytest.raises(ValueError, match=r"transpose\(0, 2, 3, 4, 1\)"):
        kind.check(video.transpose(0, 4, 1, 2, 3))
    with pytest.raises(ValueError, match="an array of the frames"):
        kind.check([GRADIENT])
    assert taken([GRADIENT], images_of(8, 6)).shape == (1, 8, 6, 3)
    with pytest.raises(ValueError, match=r"load with image_size=\(8, 5\)"):
        images_of(8, 6).check(video[0, :, :, :5])


def test_images_of_any_size_need_a_grid():
    kind = images_of()
    assert kind.check(np.zeros((1, 8, 24, 3), np.uint8)).shape == (1, 8, 24, 3)
    with pytest.raises(ValueError, match="divisible by 8, got 8x20"):
        kind.check(np.zeros((1, 8, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="load with image_size"):
        kind.check([GRADIENT])


def test_floats_that_look_like_0_to_1_are_warned_about():
    with pytest.warns(UserWarning, match=r"look like \[0, 1\]: if they are, pass uint8, or 2 \*"):
        images_of(16, 16).check(LEVELS / 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images_of(16, 16).check(to_unit_range(LEVELS))


def test_traced_values_are_checked_in_shape_and_type_alone():
    """And arrays on a device: they would have to be waited for, and copied."""
    kind = images_of(16, 16)
    for shape, dtype in (((2, 8, 8, 3), np.float32), ((2, 16, 16, 3), np.int32)):
        with pytest.raises(ValueError, match="expected images"):
            jax.eval_shape(kind.check, jax.ShapeDtypeStruct(shape, dtype))
    assert jax.eval_shape(kind.check, jax.ShapeDtypeStruct((2, 16, 16, 3), np.float32))
    with jax.transfer_guard_device_to_host("disallow"):
        assert kind.check(out := jnp.full((1, 16, 16, 3), 7.0)) is out
        assert Ids((4,), (8,)).check(out := jnp.full((1, 4), 9)) is out


def test_each_id_of_a_place_has_its_own_range():
    kind = Ids.of(Other(), (3, 2))
    ids = np.zeros((1, 6, 2), np.int64)
    ids[..., 1] = 7
    got = taken(ids, kind)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, ids)
    ids[0, 5] = 4, 0
    with pytest.raises(ValueError, match=r"ids in \[0, 4\), got 0 to 4: they come from another"):
        kind.check(ids)
    with pytest.raises(ValueError, match=r"integer ids \[b, 6, 2\], got int64 \(1, 6\)"):
        kind.check(ids[..., 0])
    with pytest.raises(ValueError, match=r"integer ids \[b, n, 2\], got float64"):
        Ids.of(Other(), None).check(ids * 1.0)


@pytest.mark.parametrize("shape", [(0, 6, 2), (1, 0, 2)])
def test_no_ids_at_all_are_refused(shape):
    for ids in (np.zeros(shape, np.int32), jnp.zeros(shape, jnp.int32)):
        with pytest.raises(ValueError, match=r"ids \[b, n, 2\], got none, .*: pass at least one"):
            Ids.of(Other(), None).check(ids)


def test_code_vectors_are_floats_of_one_shape():
    kind = Vectors((4, 5), "code vectors")
    assert taken(np.zeros((2, 4, 5)), kind).dtype == np.float32
    with pytest.raises(ValueError, match=r"expected code vectors \[b, 4, 5\] of floats, got int"):
        kind.check(np.zeros((2, 4, 5), np.int32))
