"""The README's Python works, with small weights in place of the released ones."""

import functools
import inspect
import pathlib
import re

import numpy as np
import pytest

import toklip_jax
from toklip_jax.data.text import TextTokenizer, train_tokenizer

TEXT = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.fixture
def names(golden, tmp_path, monkeypatch):
    """All that the README's blocks define, one after another."""
    tokenizer = TextTokenizer(train_tokenizer(["a dog", "a red apple"], 64), 16)
    tokenizer.save(tmp_path)
    tiny = golden("toklip_tiny/checkpoint.pt")
    load = functools.partial(toklip_jax.load, tokenizer=tmp_path)
    monkeypatch.setattr(toklip_jax, "load", lambda path: load(tiny))
    names = {"images": np.load(golden("toklip_tiny/inputs.npz"))["image_u8_nhwc"]}
    for block in BLOCKS:
        exec(block, names)
    return names


def test_its_snippets_run(names):
    assert names["ids"].shape == (4, 16)
    assert names["logits"].shape == (4, 2)
    np.testing.assert_allclose(names["step"](names["ids"]), names["tokens"], atol=1e-5)


@pytest.mark.slow
def test_its_gradient_reaches_the_pixels(names):
    pixels = names["images"][:1].astype(np.float32) / 127.5 - 1
    assert np.abs(names["gradient"](pixels)).max() > 0


def test_its_table_of_arguments_is_that_of_load():
    named = set(re.findall(r"^\| `(\w+)=", TEXT, re.M))
    parameters = inspect.signature(toklip_jax.load).parameters
    assert named == {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
