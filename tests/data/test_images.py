import hashlib
import io
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import toklip_jax
from toklip_jax.data.build import Batching, evaluation_batches, training_batches
from toklip_jax.data.health import BadSample
from toklip_jax.data.images import (
    Decode,
    random_resized_crop,
    read_image,
    shortest_side_crop,
    squash,
)
from toklip_jax.data.sources import SourceConfig
from toklip_jax.ops.pixels import to_uint8, to_unit_range

RESIZE = {"squash": squash, "shortest": shortest_side_crop}
SOURCES = [
    "camera_gray_L_301x200",
    "astronaut_tall_200x512",
    "chelsea_451x300",
    "chelsea_rgba_300x260",
    "coffee_small_120x90",
    "rocket_640x427",
]
GRADIENT = PIL.Image.fromarray(
    np.stack(np.broadcast_arrays(np.arange(80)[:, None], np.arange(120), 7), -1).astype(np.uint8)
)


@pytest.mark.parametrize("source", SOURCES)
def test_resizing_equals_the_recorded_images_exactly(golden, source):
    image = read_image(golden(f"preprocess/{source}.png"))
    recorded = np.load(golden(f"preprocess/{source}.npz"))
    outputs = json.loads(golden("preprocess/meta.json").read_text())["images"][source]["outputs"]
    for name, expected in outputs.items():
        mode, size = name.split("_")
        ours = RESIZE[mode](image, int(size))
        np.testing.assert_array_equal(ours, recorded[f"{name}_u8_hwc"])
        values = np.ascontiguousarray(to_unit_range(ours).transpose(2, 0, 1))
        assert hashlib.sha256(values.tobytes()).hexdigest() == expected["sha256_float_chw"]


def test_uint8_and_float_are_each_others_inverse():
    levels = np.arange(256, dtype=np.uint8)
    assert to_unit_range(levels).dtype == np.float32
    assert to_unit_range(levels)[0] == -1
    assert to_unit_range(levels)[-1] == 1
    np.testing.assert_array_equal(to_uint8(to_unit_range(levels)), levels)
    np.testing.assert_array_equal(to_uint8(np.array([-3.0, 3.0])), [0, 255])


def test_random_crop_obeys_scale_and_ratio():
    """The gradient's values are coordinates: their span in the result is the crop's size."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        crop = random_resized_crop(GRADIENT, 40, (0.2, 0.5), rng).astype(int)
        height, width = (np.ptp(crop[..., axis]) + 1 for axis in (0, 1))
        assert 0.15 < height * width / (80 * 120) < 0.55
        assert 0.65 < width / height < 1.5
    again = random_resized_crop(GRADIENT, 40, (0.2, 0.5), np.random.default_rng(1))
    same = random_resized_crop(GRADIENT, 40, (0.2, 0.5), np.random.default_rng(1))
    np.testing.assert_array_equal(again, same)


def test_random_crop_of_an_extreme_shape_falls_back_to_the_centre():
    strip = GRADIENT.crop((0, 38, 120, 42))
    crop = random_resized_crop(strip, 8, (0.9, 1.0), np.random.default_rng(0)).astype(int)
    assert crop.shape == (8, 8, 3)
    assert 57 <= crop[..., 1].min() <= crop[..., 1].max() <= 62


def test_a_rectangle_is_filled_by_each_resize():
    """The gradient's rows are 0 to 79 and its columns 0 to 119."""
    for resize, size, seen in (
        (squash, (20, 60), (80, 120)),
        (shortest_side_crop, (20, 60), (40, 120)),
        (shortest_side_crop, (40, 10), (80, 20)),
    ):
        resized = resize(GRADIENT, size).astype(int)
        assert resized.shape == (*size, 3)
        for axis in (0, 1):
            pixel = seen[axis] / size[axis]  # of the result, in the gradient's
            assert np.ptp(resized[..., axis]) == pytest.approx(seen[axis] - pixel, abs=2)
            assert resized[..., axis].mean() == pytest.approx((40, 60)[axis] - 0.5, abs=1)
    for size in ((20, 60), (40, 10)):
        crop = random_resized_crop(GRADIENT, size, (0.9, 1.0), np.random.default_rng(0))
        assert crop.shape == (*size, 3)
    for resize in (squash, shortest_side_crop):  # a square is one however it is given
        np.testing.assert_array_equal(resize(GRADIENT, 16), resize(GRADIENT, (16, 16)))


@pytest.mark.parametrize("on_device", [False, True])
def test_pixels_are_converted_alike_on_the_host_and_on_devices(on_device):
    levels = np.arange(256, dtype=np.uint8)
    expected = (levels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    as_given = jnp.asarray if on_device else np.asarray
    values = to_unit_range(as_given(levels))
    assert isinstance(values, jax.Array if on_device else np.ndarray)
    if on_device:  # XLA multiplies with 1 / 255
        np.testing.assert_allclose(values, expected, atol=1.2e-7, rtol=0)
    else:
        np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(to_uint8(values), levels)
    np.testing.assert_array_equal(to_unit_range(values), values)


def grey(levels, form, mode=None):
    buffer = io.BytesIO()
    PIL.Image.fromarray(levels, mode).save(buffer, form)
    return PIL.Image.open(io.BytesIO(buffer.getvalue()))


LEVELS = np.arange(80, dtype=np.uint8)[:, None] + np.arange(120, dtype=np.uint8)


@pytest.mark.parametrize("resize", RESIZE.values())
@pytest.mark.parametrize(
    "image",
    [
        grey(LEVELS.astype(np.uint16) * 257, "PNG"),
        grey(LEVELS.astype(np.uint16) * 257, "TIFF"),
        grey(LEVELS.astype(np.int32) * 257, "PPM"),
        grey(LEVELS.astype(np.float32) / 255, "TIFF"),
    ],
    ids=["16-bit PNG", "16-bit TIFF", "16-bit PGM", "float TIFF"],
)
def test_pictures_of_more_than_8_bits_are_scaled_to_them(resize, image):
    plain = PIL.Image.fromarray(LEVELS)
    np.testing.assert_array_equal(resize(image, 16), resize(plain, 16))
    draws = (
        random_resized_crop(i, 16, (0.5, 0.6), np.random.default_rng(0)) for i in (image, plain)
    )
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(
    "levels",
    [
        LEVELS.astype(np.float32),
        LEVELS.astype(np.float32) / 100 - 1,
        np.full((9, 9), np.nan, np.float32),
        LEVELS.astype(np.int32) * 9,
    ],
)
def test_pictures_of_unknown_range_are_refused(levels):
    image = grey(levels, "TIFF")
    with pytest.raises(ValueError, match=r"floats in .0, 1., got mode [IF] .*: scale it to 8 bits"):
        squash(image, 16)
    buffer = io.BytesIO()
    PIL.Image.fromarray(levels).save(buffer, "TIFF")
    for is_training in (True, False):
        with pytest.raises(BadSample, match="values of unknown range"):
            Decode(16, is_training)({"image": buffer.getvalue()}, np.random.default_rng(0))


@pytest.mark.parametrize("size", [(600, 20), (20, 600), (339, 21)])
def test_the_centre_of_a_strip_is_what_cutting_after_the_resize_gives(size):
    rng = np.random.default_rng(0)
    image = PIL.Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    shorter = min(size)
    covering = tuple(int(side * 32 / shorter) for side in size)
    left, top = (round((side - 32) / 2) for side in covering)
    whole = image.resize(covering, PIL.Image.Resampling.BICUBIC)
    whole = np.asarray(whole.crop((left, top, left + 32, top + 32)), int)
    ours = shortest_side_crop(image, 32).astype(int)
    assert np.abs(ours - whole).max() <= 1


@pytest.mark.parametrize("size", [(65_000, 8), (8, 65_000), (2**22, 8), (8, 2**22)])
@pytest.mark.parametrize("resize", RESIZE.values())
def test_no_strip_is_enlarged_as_a_whole(resize, size, monkeypatch):
    made = []
    plain = PIL.Image.Image.resize

    def counted(self, size, *rest):
        made.append(size[0] * max(size[1], self.height))
        return plain(self, size, *rest)

    monkeypatch.setattr(PIL.Image.Image, "resize", counted)
    assert resize(PIL.Image.new("L", size, 9), 256).shape == (256, 256, 3)
    assert max(made) <= max(2**24, 2 * size[0] * size[1])


def test_only_the_named_formats_are_opened(tmp_path):
    """A picture's name doesn't matter: PostScript would start Ghostscript."""
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "eps.png").write_bytes(data)
    GRADIENT.save(tmp_path / "ico.png", "ICO")
    for name in ("eps.png", "ico.png"):
        assert PIL.Image.open(tmp_path / name)  # Pillow alone would
        with pytest.raises(ValueError, match=f"expected an image of AVIF, .*got .*{name}"):
            read_image(tmp_path / name)
        record = {"image": (tmp_path / name).read_bytes()}
        with pytest.raises(BadSample, match="not an image"):
            Decode(16, False)(record, np.random.default_rng(0))


def test_no_other_module_opens_pictures():
    package = pathlib.Path(toklip_jax.__file__).parent
    opening = re.compile(r"Image\.open\(|ImageFile\.Parser|ImageSequence")
    found = [path.name for path in package.rglob("*.py") if opening.search(path.read_text())]
    assert found == ["formats.py"]


def test_pictures_are_turned_where_that_is_asked_for(tmp_path):
    image = PIL.Image.fromarray(
        np.array([[[0] * 3, [255] * 3]], np.uint8).repeat(20, 0).repeat(10, 1)
    )
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    record = {"image": buffer.getvalue()}
    for is_training in (True, False):
        plain, turned = (
            Decode(16, is_training, exif_orientation=asked)(record, np.random.default_rng(0))
            for asked in (False, True)
        )
        assert (plain["images"][8, 2, 0] < 50, turned["images"][8, 2, 0] > 200) == (True, True)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "0.jpg").write_bytes(record["image"])
    source = SourceConfig("image_folder", {"root": str(tmp_path)})
    for asked in (False, True):
        batching = Batching(1, 16, exif_orientation=asked)
        trained = next(training_batches(source, batching, has_text=False)(0))
        (evaluated,) = evaluation_batches(source, batching)
        for batch in (trained, evaluated):
            assert (batch["images"][0, 8, 2, 0] > 200) == asked


def test_a_broken_image_file_is_named(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        read_image(path)
    GRADIENT.save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a\.png"):
        read_image(path)
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png"):
        read_image(path)
