"""The public config builds, and docs/evaluation.md has a command for each evaluation in it."""

import ast
import pathlib
import re
import runpy

import pytest

from toklip_jax.evaluation.registry import EVALUATIONS, build_evaluation, kind_of

PACKAGE = "toklip_jax.evaluation"
ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "evaluation.md").read_text()


@pytest.fixture
def config():
    return runpy.run_path(str(ROOT / "configs" / "evaluate.py"))["get_config"]()


def test_every_evaluation_of_the_public_config_builds(config):
    sections = config.evaluations.to_dict()
    own = {kind for kind, cls in EVALUATIONS.items() if cls.__module__.startswith(PACKAGE)}
    assert {section["kind"] for section in sections.values()} == own
    for name, section in sections.items():
        assert kind_of(build_evaluation(name, section)) == section["kind"]


def test_every_evaluation_has_its_command(config):
    named = [ast.literal_eval(text) for text in re.findall(r'--config\.evaluate="(.*?)"', TEXT)]
    assert {name for names in named for name in names} == set(config.evaluations)


def test_every_field_of_a_command_is_in_the_config(config):
    names = re.findall(r"--config\.([\w.]+)=", TEXT)
    assert len(names) > 10
    for name in names:
        node = config
        for part in name.split("."):
            assert part in node or name == "compute.dtype", name
            node = node[part]


def test_what_the_tables_of_models_name_is_in_the_config(config):
    models = set(re.findall(r"`models\.(\w+)`", TEXT))
    assert models == set(config.models)
