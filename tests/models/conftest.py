"""What the tests of models share: a module's recording, and how close they come to it."""

import numpy as np
import pytest

from tests.models import stages
from toklip_jax.weights.read import read_weights


@pytest.fixture(autouse=True)
def _node(request):
    stages.close.node = request.node


@pytest.fixture(scope="module")
def weights(golden, request):
    """The recorded weights of the folder that the test's module names in `RECORDING`."""
    return read_weights(golden(f"{request.module.RECORDING}/checkpoint.safetensors"))


@pytest.fixture(scope="module")
def inputs(golden, request):
    return np.load(golden(f"{request.module.RECORDING}/inputs.npz"))


@pytest.fixture(scope="module")
def want(golden, request):
    """What PyTorch's modules gave for the inputs."""
    return np.load(golden(f"{request.module.RECORDING}/outputs.npz"))
