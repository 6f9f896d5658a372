"""At the released sizes, model and map account for every key and shape; nothing is computed."""

import json
import re

import numpy as np
import pytest

from toklip_jax.files.rules import reverse_names, to_jax, torch_shape
from toklip_jax.models.base import Hints
from toklip_jax.models.registry import find_family, param_shapes
from toklip_jax.models.siglip.sizes import SIZES as TEACHER_SIZES
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES


def recorded(golden, name):
    keys = json.loads(golden(f"full_keys/{name}.json").read_text())
    # Broadcasting one number gives arrays of any shape that take no memory.
    return {k: np.broadcast_to(np.float32(0), shape) for k, (shape, _) in keys.items()}


CASES = {
    "keys_256": ("toklip", TOKLIP_SIZES["toklip_s_256"]),
    "keys_384": ("toklip", TOKLIP_SIZES["toklip_l_384"]),
    "teacher_keys_256": ("teacher", TEACHER_SIZES["siglip2_so400m_256"]),
    "teacher_keys_384": ("teacher", TEACHER_SIZES["siglip2_so400m_384"]),
}


@pytest.mark.parametrize("name", CASES)
def test_sizes_are_inferred_and_no_key_is_left_on_either_side(golden, name):
    family_name, size = CASES[name]
    tensors = recorded(golden, name)
    family = find_family(tensors)
    assert family.name == family_name
    config = family.keys.infer(tensors, Hints(), "")
    assert config == size
    shapes = param_shapes(config)
    rules = family.keys.rules(config, "", "")
    names = reverse_names(rules, shapes)
    carried = {n for n in tensors if n.endswith("codebook_used")}
    assert set(names) | carried == set(tensors)
    assert len(names) == len(shapes)
    for torch_name, path in names.items():
        rule = next(r for r in rules if r.target and matches(r.target, path))
        assert torch_shape(rule.pattern, shapes[path]) == tensors[torch_name].shape, torch_name


def matches(target, path):
    return re.fullmatch(re.sub(r"\\\{\w\\\}", r"\\d+", re.escape(target)), path)


def test_parameter_counts_are_the_recorded_ones(golden):
    summary = json.loads(golden("full_keys/summary.json").read_text())
    for name, (_, size) in CASES.items():
        count = sum(int(np.prod(shape)) for shape in param_shapes(size).values())
        assert count == summary[name]["total_parameters"]


def test_all_faults_come_in_one_report(golden):
    tensors = recorded(golden, "teacher_keys_256")
    del tensors["text.ln_final.bias"]
    tensors["text.ln_final.weight"] = np.zeros((7,), np.float32)
    tensors["text.extra"] = np.zeros((1,), np.float32)
    config = TEACHER_SIZES["siglip2_so400m_256"]
    rules = find_family(tensors).keys.rules(config, "", "")
    shapes = param_shapes(config)
    small = {k: v for k, v in tensors.items() if k.startswith("text.ln_final") or "extra" in k}
    shapes = {k: v for k, v in shapes.items() if k.startswith("text_tower/norm")}
    with pytest.raises(ValueError, match="3 keys don't fit") as error:
        to_jax(small, rules, shapes)
    for part in (
        "missing: text.ln_final.bias",
        "misshaped: text.ln_final.weight is (7,), expected (1152,)",
        "unknown: text.extra",
    ):
        assert part in str(error.value)
