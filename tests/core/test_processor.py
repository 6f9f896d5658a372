"""The line of Linux that names a processor's instruction sets."""

import pathlib

import pytest

from toklip_jax.core.processor import processor_flags


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2\n\nflags\t\t: fpu\n", "flags\t\t: fpu avx2"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", "Features\t: fp asimd"),
        ("processor\t: 0\n", ""),
    ],
)
def test_the_first_line_of_flags_is_found(monkeypatch, text, line):
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: text)
    assert processor_flags() == line


def test_elsewhere_than_on_linux_there_is_none(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    assert processor_flags() == ""
