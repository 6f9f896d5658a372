"""The page's application on small recorded weights."""

import dataclasses

import jax
import numpy as np
import pytest
from starlette.testclient import TestClient

import toklip_jax
from tests.models.tiny_multimodal import CONFIG, params_of
from toklip_jax.api import MultimodalModel
from toklip_jax.app import Limits, Models, build
from toklip_jax.data.text import TextTokenizer, train_tokenizer
from toklip_jax.weights import Weights

ADDRESS = "http://127.0.0.1:8017"
TEXTS = ["a face", "an animal", "food", "a flag", "what is it", "a red cat"]


@pytest.fixture(scope="session")
def toklip(golden, tmp_path_factory):
    """The recorded TokLIP, with a text tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    TextTokenizer(train_tokenizer(TEXTS, 64), 16).save(folder)
    return toklip_jax.load(golden("toklip_tiny/checkpoint.pt"), tokenizer=folder)


@pytest.fixture(scope="session")
def generator(golden):
    return toklip_jax.load(
        golden("gpt_c2i_tiny/checkpoint.safetensors"), vq=golden("toklip_tiny/checkpoint.pt")
    )


@pytest.fixture(scope="session")
def answering(tmp_path_factory):
    """A model that answers, of another tokenizer's ids."""
    path = tmp_path_factory.mktemp("answering") / "tokenizer.json"
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save(str(path))
    size = 1 + max(tokenizer.get_vocab().values())
    language_model = dataclasses.replace(CONFIG.language_model, vocab_size=size)
    config = dataclasses.replace(CONFIG, language_model=language_model, template="short")
    params = jax.tree.map(np.asarray, params_of(config))
    weights = Weights(config, params, is_scanned=False, tokenizer_path=path)
    return MultimodalModel.from_weights(weights)


@pytest.fixture(scope="session")
def models(toklip, generator, answering):
    return Models(toklip, generator, answering)


@pytest.fixture(scope="session")
def application(models):
    return build(models, limits=Limits(upload_mb=2, files=12))


@pytest.fixture
def client(application):
    return client_of(application)


@pytest.fixture(scope="session")
def picture():
    """A picture of another size than the model's, uint8."""
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (8, 10, 3), np.uint8), np.ones((10, 10, 1), np.uint8))


def client_of(application):
    """A client that sends what the page's own requests have."""
    headers = {"origin": ADDRESS}
    return TestClient(application, base_url=ADDRESS, headers=headers, raise_server_exceptions=False)
