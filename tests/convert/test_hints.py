"""What shapes can't tell is passed; what a file has no use for is refused."""

import dataclasses

import pytest

from toklip_jax.models.base import Hints, Recognised
from toklip_jax.models.registry import FAMILIES


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize(
    "hint",
    [{"num_heads": 4}, {"text_num_heads": 4}, {"is_causal": False}, {"is_l2_normalised": False}],
)
def test_a_hint_reaches_the_family_or_is_refused(family, hint):
    seen, keys = [], family.keys
    recording = dataclasses.replace(keys, infer=lambda tensors, hints, prefix: seen.append(hints))
    fake = dataclasses.replace(family, keys=recording)
    (name,) = hint
    if name in keys.hints:
        Recognised(fake, {}).infer(Hints(**hint))
        assert getattr(seen[0], name) == hint[name]
    else:
        with pytest.raises(ValueError, match=f"expected no {name} with weights of .*leave it out"):
            Recognised(fake, {}).infer(Hints(**hint))
        assert not seen
