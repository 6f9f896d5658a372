"""Durations in words, and lines that fit a terminal."""

import pytest

from toklip_jax.core.lines import in_words, joined


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (40.4, "40 s"),
        (59.6, "1 min"),
        (240, "4 min"),
        (3599, "1 h"),
        (4800, "1 h 20 min"),
        (7200, "2 h"),
        (47.5 * 3600, "47 h 30 min"),
        (76 * 3600, "3 days 4 h"),
        (72 * 3600, "3 days"),
    ],
)
def test_a_duration_cannot_be_misread(seconds, words):
    assert in_words(seconds) == words


def test_parts_are_one_line_or_lines_that_fit():
    parts = ["stage 1 of 3, vq 50/4000", *(f"metric_{i} 0.1234" for i in range(12))]
    assert joined(parts) == " | ".join(parts)
    lines = joined(parts, 100).split("\n")
    assert len(lines) == 3
    assert all(len(line) <= 100 for line in lines)
    assert [part for line in lines for part in line.strip().split(" | ")] == parts
