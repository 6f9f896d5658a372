import numpy as np
import PIL.Image
import pytest

from toklip_jax.data.images import ShiftAndScale, shift_and_scale
from toklip_jax.data.transforms import Chain, PickCaption

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)


def test_no_shift_and_no_scale_changes_nothing():
    np.testing.assert_array_equal(shift_and_scale(IMAGE, 1.0, 0.0, 0.0), IMAGE)


def test_a_whole_shift_moves_pixels_and_fills_with_white():
    moved = shift_and_scale(IMAGE, 1.0, 2.0, -3.0)
    np.testing.assert_array_equal(moved[2:, :-3], IMAGE[:-2, 3:])
    assert (moved[:2] == 255).all()
    assert (moved[:, -3:] == 255).all()


def test_scaling_equals_pillows_bilinear_sampling():
    scale, down, right = 1.25, 0.5, -1.0
    # Pillow's coordinates are pixel corners, ours centres: both scale about the image's centre.
    offsets = [6 - (6 + shift) / scale for shift in (right, down)]
    matrix = (1 / scale, 0, offsets[0], 0, 1 / scale, offsets[1])
    pillow = PIL.Image.fromarray(IMAGE).transform(
        (12, 12), PIL.Image.Transform.AFFINE, matrix, PIL.Image.Resampling.BILINEAR
    )
    ours = shift_and_scale(IMAGE, scale, down, right)
    inside = slice(3, -3)
    np.testing.assert_allclose(
        ours[inside, inside].astype(int), np.asarray(pillow)[inside, inside].astype(int), atol=1
    )


def test_a_picked_caption_is_one_of_the_samples():
    captions = np.arange(12, dtype=np.int32).reshape(4, 3)
    sample = {"images": IMAGE, "captions": captions}
    rng = np.random.default_rng(0)
    picked = [PickCaption()(sample, rng) for _ in range(60)]
    assert {tuple(p["token_ids"]) for p in picked} == {tuple(row) for row in captions}
    assert all("captions" not in p for p in picked)
    assert "captions" in sample


def test_a_chain_applies_each_transform_within_its_bounds():
    chain = Chain(PickCaption(), ShiftAndScale(max_shift=0.0, max_scale=1.0))
    out = chain({"images": IMAGE, "captions": np.zeros((2, 3))}, np.random.default_rng(0))
    np.testing.assert_array_equal(out["images"], IMAGE)
    assert out["token_ids"].shape == (3,)
    with pytest.raises(ValueError, match="max_scale of at least 1"):
        ShiftAndScale(max_scale=0.9)
