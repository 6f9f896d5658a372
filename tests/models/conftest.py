"""Tells `stages.close` which test it compares for."""

import pytest

from tests.models import stages


@pytest.fixture(autouse=True)
def _node(request):
    stages.close.node = request.node
