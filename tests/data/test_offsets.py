import pickle

import pytest

from toklip_jax.data.offsets import Offsets


def test_every_index_falls_in_its_part():
    lengths = [2, 0, 3, 1, 0]
    offsets = pickle.loads(pickle.dumps(Offsets(lengths)))
    expected = [(part, row) for part, length in enumerate(lengths) for row in range(length)]
    assert [offsets.place(i) for i in range(len(offsets))] == expected
    assert offsets.starts == [0, 2, 2, 5, 6, 6]


@pytest.mark.parametrize("index", [-1, 6])
def test_an_index_outside_is_refused(index):
    with pytest.raises(IndexError, match=r"in \[0, 6\), got"):
        Offsets([2, 4]).place(index)
