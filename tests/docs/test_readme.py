"""The Python of the README and of docs/using.md works, with small weights for the released ones."""

import functools
import inspect
import pathlib
import re

import numpy as np
import PIL.Image
import pytest

import toklip_jax
from toklip_jax.data.text import TextTokenizer, train_tokenizer

ROOT = pathlib.Path(__file__).parents[2]
TEXT = "".join((ROOT / name).read_text() for name in ("docs/using.md", "README.md"))
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)


class OfFewClasses:
    """A generator of ten classes that takes ImageNet's."""

    def __init__(self, generator):
        self.generator, self.detokenize = generator, generator.detokenize

    def sample(self, classes, **options):
        return self.generator.sample(classes=[c % 10 for c in classes], **options)


class Asked:
    """In place of a language model: every call has to fit the method of its class."""

    def __init__(self, cls):
        self._cls = cls

    def __getattr__(self, name):
        signature = inspect.signature(getattr(self._cls, name))
        return lambda *args, **options: signature.bind(self, *args, **options)


@pytest.fixture
def names(golden, tmp_path, monkeypatch):
    """All that the README's blocks define, one after another."""
    tokenizer = TextTokenizer(train_tokenizer(["a dog", "a red apple"], 64), 16)
    tokenizer.save(tmp_path)
    tiny = golden("toklip_tiny/checkpoint.pt")
    original = toklip_jax.load
    load = functools.partial(original, tokenizer=tmp_path)

    asked = {"multimodal": toklip_jax.MultimodalModel, "Qwen": toklip_jax.LanguageModel}

    def load_small(path, vq=None):
        for name, cls in asked.items():
            if name in path:
                return Asked(cls)
        if vq is None:
            return load(tiny)
        return OfFewClasses(original(golden("gpt_c2i_tiny/checkpoint.safetensors"), vq=tiny))

    monkeypatch.setattr(toklip_jax, "load", load_small)
    pixels = np.load(golden("toklip_tiny/inputs.npz"))["image_u8_nhwc"][:2]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, image in zip(("dog.jpg", "apple.jpg"), pixels, strict=True):
        PIL.Image.fromarray(image).save(tmp_path / "photos" / name, format="PNG")  # bit-exact
    names = {"images": pixels, "pixels": pixels}
    for block in BLOCKS:
        exec(block, names)
    return names


def test_its_snippets_run(names):
    assert names["ids"].shape == (2, 16)  # the generator's, which come last
    assert names["images"].shape == (2, 64, 64, 3)
    assert names["logits"].shape == (2, 2)
    tokens = names["step"](names["toklip"].tokenize(names["pixels"]))
    np.testing.assert_allclose(tokens, names["tokens"], atol=1e-5)


@pytest.mark.slow
def test_its_gradient_reaches_the_pixels(names):
    pixels = names["pixels"][:1].astype(np.float32) / 127.5 - 1
    assert np.abs(names["gradient"](pixels)).max() > 0


def test_its_table_of_arguments_is_that_of_load():
    named = set(re.findall(r"^\| `(\w+)=", TEXT, re.M))
    parameters = inspect.signature(toklip_jax.load).parameters
    assert named == {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
