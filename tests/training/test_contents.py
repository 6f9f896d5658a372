import json

import pytest

from toklip_jax.training.contents import seal, unseal
from toklip_jax.training.reading import Damaged


@pytest.mark.parametrize(
    "change",
    [
        lambda sealed: sealed["content"].update(seed=1),
        lambda sealed: sealed.update(sha256="0" * 64),
        lambda sealed: sealed.update(sha257=sealed.pop("sha256")),
        lambda sealed: sealed.update(cnntent=sealed.pop("content")),
        lambda sealed: sealed.update(more=1),
    ],
)
def test_a_description_that_is_not_what_was_sealed_is_damage(change):
    content = {"seed": 0, "rate": 1e-3, "sizes": (1, 2), "by": {10: "a", 9: "b"}}
    sealed = json.loads(json.dumps(seal(content)))
    assert unseal(sealed) == json.loads(json.dumps(content))
    change(sealed)
    with pytest.raises(Damaged):
        unseal(sealed)


@pytest.mark.parametrize("saved", [[], 5, None, "text"])
def test_what_is_no_object_is_damage_and_an_earlier_versions_config_is_not(saved):
    with pytest.raises(Damaged, match="no json object"):
        unseal(saved)
    assert unseal({"seed": 0}) == {"description": {"seed": 0}}
