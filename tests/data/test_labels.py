import decimal

import numpy as np
import pytest

from toklip_jax.data.health import BadSample
from toklip_jax.data.images import Decode
from toklip_jax.data.labels import label_of


@pytest.mark.parametrize(
    "value", [7, 7.0, "7", " 7\n", b"7\n", "7.0", "+7", np.int64(7), decimal.Decimal("7.00")]
)
def test_labels_are_whole_numbers_or_their_digits(value):
    assert label_of(value) == 7


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (None, "missing label"),
        *[
            (value, "label is not a whole number")
            for value in (3.7, "3.7", "cat", b"\xff", "", "1_0")
        ],
        *[
            (value, "label is not a whole number")
            for value in (float("nan"), float("inf"), [1], "7e2")
        ],
        *[(value, "label beyond 32 bits") for value in (2**31, -(2**31) - 1, "99999999999", 1e300)],
    ],
)
def test_what_is_no_label_is_a_bad_sample(value, cause):
    with pytest.raises(BadSample, match=cause):
        label_of(value)


def test_labels_that_are_not_asked_for_are_not_looked_at(raw):
    rng = np.random.default_rng(0)
    for label in ("cat", 2**40, None):
        record = {"image": raw.jpeg(), "label": label}
        assert set(Decode(16, False)(record, rng)) == {"images"}
        with pytest.raises(BadSample, match="label"):
            Decode(16, False, has_labels=True)(record, rng)
    with pytest.raises(BadSample, match="missing label"):
        Decode(16, True, has_labels=True)({"image": raw.jpeg()}, rng)
