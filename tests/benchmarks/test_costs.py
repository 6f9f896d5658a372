"""The costs of recipes: what is counted, and that the page has what was counted."""

import importlib
import pathlib
import sys

import pytest

from toklip_jax.experiment import Experiment

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def costs():
    """The module; benchmarks are run from the root and not installed."""
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("benchmarks.costs")
    sys.path.remove(str(ROOT))


def test_the_page_has_the_table_of_all_recipes_and_plans(costs):
    rows = costs.read()
    assert list(rows) == [recipe.title for recipe in costs.RECIPES]
    text = costs.table(rows, costs.plan_table.read())
    assert costs.START + text + costs.END in costs.PAGE.read_text()


def test_a_gpts_flops_are_six_for_each_parameter_and_token(costs):
    """Of the parameters in products, and attention in full: 12 x depth x width x length a token."""
    (recipe,) = [r for r in costs.RECIPES if r.title.startswith("GPT-B ")]
    found = costs.count(recipe)
    width, depth, tokens, codes = 768, 12, 256, 16_384
    weights = depth * (4 * width**2 + 3 * width * 2048) + width * codes
    expected = (6 * weights + 12 * depth * width * tokens) * tokens * found["batch"]
    assert found["step_flops"] == pytest.approx(expected, rel=0.02)
    assert found["frozen"] == 0  # ids come from a cache
    assert found["bytes"] == pytest.approx(12 * found["trained"], rel=1e-3)


def test_hours_are_the_plans_where_one_is_of_the_same_step(costs):
    recipe = costs.Recipe("made up", "", plan="x")
    row = {"batch": 64, "steps": 900, "step_flops": 4, "trained": 1, "frozen": 1, "bytes": 1}
    plan = {"batch": 32, "chips": 8, "peak": 2**31, "seconds": {"compute": 1.0, "memory": 2.0}}
    plans = {
        "x v5e:16x16 32 1": plan,
        "x v5e:16x16 64 2": plan | {"chips": 100},  # in chunks, which recompute
        "x v5e:16x16 128 1": plan | {"chips": 100},  # larger than the recipe's
        "y v5p:4x4x8 32 1": plan,
    }
    cells = costs._cells(recipe, row, plans)
    # 2 s a step of 32 on 8 chips, 900 steps of 64: 28,800 chip seconds.
    assert cells[8:12] == ["2.0", "", "8.0", ""]


def test_every_row_of_the_plans_names_a_stage_of_a_config(costs):
    for name in {row[0] for row in costs.plan_table.ROWS}:
        experiment, stage = costs.plan_table.read_row(name)
        assert isinstance(experiment, Experiment)
        assert not stage or stage in experiment.sections
