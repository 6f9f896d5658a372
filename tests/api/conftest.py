"""The recorded tiny TokLIP, as a user loads it, and one that compiles faster."""

import pathlib

import numpy as np
import pytest

import toklip_jax


@pytest.fixture(scope="session")
def path(golden):
    return golden("toklip_tiny/checkpoint.pt")


@pytest.fixture(scope="session")
def toklip(path):
    return toklip_jax.load(path)


@pytest.fixture(scope="session")
def inputs(golden):
    return np.load(golden("toklip_tiny/inputs.npz"))


@pytest.fixture(scope="session")
def want(golden):
    return np.load(golden("toklip_tiny/outputs_causal.npz"))


FASTER = pathlib.Path(__file__).parents[1] / "weights" / "format_1"


@pytest.fixture(scope="session")
def faster():
    """The directory of a TokLIP of 16 x 16 images, and of its VQ tokenizer's kind alone."""
    return FASTER


@pytest.fixture(scope="session")
def small(faster):
    return toklip_jax.load(faster / "toklip")


@pytest.fixture(scope="session")
def pictures():
    return np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), np.uint8)
