"""A registry takes each name once, takes the same thing again, and refuses what can't be one."""

import dataclasses

import pytest

from toklip_jax.data.sources import base as sources
from toklip_jax.data.sources import registry as source_registry
from toklip_jax.evaluation.registry import EVALUATIONS, register_evaluation
from toklip_jax.models import registry as models
from toklip_jax.tasks import registry as tasks

TEACHER, VQ = tasks.TASKS["teacher"], tasks.TASKS["vq"]
FAMILY, OTHER = models.FAMILIES[:2]
SOURCE = source_registry.KINDS[0]


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (tasks.register, dataclasses.replace(VQ, name="teacher")),
        (models.register, dataclasses.replace(FAMILY, parts={}, title="another")),
        (sources.register, dataclasses.replace(SOURCE)),
        (lambda cls: register_evaluation("zeroshot", cls), EVALUATIONS["retrieval"]),
    ],
    ids=["task", "family", "source", "evaluation"],
)
def test_a_name_that_is_taken_is_refused(register, value):
    with pytest.raises(ValueError, match="expected a new name"):
        register(value)


@pytest.mark.parametrize(
    ("register", "value"),
    [(tasks.register, VQ), (models.register, FAMILY), (sources.register, SOURCE)],
    ids=["task", "family", "source"],
)
def test_the_same_thing_may_be_registered_again(register, value):
    register(value)


def test_a_family_needs_a_config_and_kinds_of_its_own():
    with pytest.raises(ValueError, match="expected a config of its own"):
        models.register(dataclasses.replace(FAMILY, name="mine", parts={}))
    part = type("Part", (), {})
    config = dataclasses.make_dataclass("Config", ["width"])
    with pytest.raises(ValueError, match="expected new kinds of configs"):
        models.register(
            dataclasses.replace(FAMILY, name="mine", config=config, parts={OTHER.name: part})
        )
    assert "mine" not in {family.name for family in models.registered()}
