"""Several sequences read as one: which of them an index falls in."""

import bisect
import itertools
from collections.abc import Iterable


class Offsets:
    """The starting index of each part when parts of known lengths are read one after another.

    Attributes:
        starts: index at which each part begins, then the length of all.
    """

    def __init__(self, lengths: Iterable[int]):
        self.starts = [0, *itertools.accumulate(lengths)]

    def __len__(self) -> int:
        return self.starts[-1]

    def place(self, index: int) -> tuple[int, int]:
        """Returns the part that `index` falls in, and the row within that part.

        Raises:
            IndexError: the index is negative, or past the end.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"expected an index in [0, {len(self)}), got {index}")
        part = bisect.bisect_right(self.starts, index) - 1  # the last, so empty parts have none
        return part, index - self.starts[part]
