"""The table of chips."""

import pytest

from toklip_jax.costs.chips import chip


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "TPU v4"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v5p", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
    ],
)
def test_device_kinds_name_their_chips(kind, name):
    assert chip(kind).name == name


@pytest.mark.parametrize("kind", ["cpu", "TPU v4 lite", "NVIDIA H2000", "TPU v7"])
def test_an_unknown_kind_is_none_and_not_a_guess(kind):
    assert chip(kind) is None
