"""The benchmarks run, at sizes that say nothing of speed; against PyTorch where it is installed."""

import argparse
import dataclasses
import importlib
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PEERS = ("eager",) if importlib.util.find_spec("torch") else ()
# Not on the machines that GPU suites run on.
ABSENT = ("grain", "ml_collections", "tensorflow_datasets")


@pytest.fixture(scope="module")
def load():
    """`load("inference")` is the module; benchmarks are run from the root and not installed."""
    sys.path.insert(0, str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def sizes():
    from toklip_jax.models.siglip.sizes import tiny
    from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES

    return dataclasses.replace(TOKLIP_SIZES["tiny"], has_logit_bias=False), tiny(False)


def test_inference_is_measured_stage_by_stage(load, sizes):
    inference = load("inference")
    setting = inference.Setting(sizes[0], inference.F32, {2: PEERS}, {"eager": 1.0}, 0.5, 1)
    found = inference.measure_setting(setting)
    assert not found["problems"]
    assert len(found["rows"]) == 3 * len(PEERS) + 1
    floor = found["floors"]["batch 2"]
    assert floor["flops"]["images to ids"] > 5e8  # of two 64-pixel images
    assert set(floor["share_of_floor"]) == {*inference.STAGES, inference.WHOLE}


def test_train_step_is_measured_and_learns(load, sizes):
    train_step = load("train_step")
    setting = train_step.Setting(*sizes, train_step.F32, 2, PEERS, {"eager": 1.3}, None, 1)
    found = train_step.measure_setting(setting)
    assert not found["problems"]
    assert np.isfinite(found["first_losses"]["ours"])
    assert set(found["first_losses"]) == {"ours", *PEERS}
    assert found["flops"] > 5e8


def test_compile_time_needs_no_weights(load, sizes):
    train_step = load("train_step")
    setting = train_step.Setting(*sizes, train_step.F32, 2, (), {})
    try:
        row = load("compile_time").measure_setting(setting)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert row["value"] == pytest.approx(row["lowering_seconds"] + row["compiling_seconds"])
    assert row["is_met"]


def test_limits_are_rates_of_the_models_shapes(load, sizes):
    limits = load("limits")
    compute = load("inference").F32
    assert set(limits.products(sizes[0], 2, compute)) == {
        "32 x 64 x 192", "32 x 64 x 64", "32 x 64 x 239", "32 x 239 x 64"
    }  # fmt: skip
    assert next(iter(limits.convolutions(sizes[0], 1, compute))) == "64 x 64 x 32"
    assert all(rate > 0 for rate in limits.rates(sizes[0], 1, compute).values())


def test_host_part_measures_decoding_and_ranking(load):
    tiny = argparse.Namespace(images=64, captions=64, dim=8)
    assert [row["what"].split()[0].strip(",") for row in load("host").measure(2, tiny)["rows"]] == [
        "decoding", "decoding", "retrieval"
    ]  # fmt: skip


def test_contenders_take_turns_on_the_same_fresh_inputs(load):
    timing, seen = load("timing"), []
    cases = {
        name: timing.Case(lambda x, name=name: seen.append((name, x))) for name in ("ours", "peer")
    }
    numbers = iter(range(10))
    seconds = timing.alternate(cases, lambda random: (next(numbers),), repetitions=2, runs=2)
    assert seen == [(name, i) for i in range(3) for name in ("ours", "ours", "peer", "peer")]
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_a_round_in_which_the_machine_was_slow_is_repeated(load):
    timing, turns = load("timing"), []
    quiet = timing.Quiet(most_repeated=2)
    rates = iter([1.0, 1.0, 1.0, 1.0, 0.7, 1.0, 0.9, 0.9, 0.9])  # the first is of the warm-up
    quiet.rate = lambda: next(rates)
    case = timing.Case(turns.append)
    seconds = timing.alternate({"ours": case}, lambda random: (0,), repetitions=3, quiet=quiet)
    assert len(turns) == 5  # with the warm-up, and the one repeated
    assert len(seconds["ours"]) == 3
    assert quiet.record() == {"product_rates": [1.0, 0.9, 0.9], "best_rate": 1.0, "repeated": 1}
    assert [quiet.keeps(0.1, 0.1) for _ in range(3)] == [False, True, True]  # not for ever


def test_a_products_rate_is_positive_and_the_same_work_each_time(load):
    quiet = load("timing").Quiet()
    quiet.SIDE = 64
    assert all(quiet.rate() > 0 for _ in range(2))


def test_a_rehearsal_takes_one_layer_at_the_real_widths(load):
    for name in ("inference", "train_step"):
        for setting in load(name).SETTINGS.values():
            rehearsed = setting.rehearsed()
            assert rehearsed.size.vision.depth == 1
            assert rehearsed.size.vision.width == setting.size.vision.width
            assert rehearsed.repetitions == 1


def test_attentions_contenders_are_checked_against_float32(load):
    from toklip_jax.models.siglip.config import VisionConfig

    attention = load("attention")
    rows, problems = attention.measure_one(VisionConfig(64, 1, 4, image_size=64), 1, True, True, 1)
    assert [row["peer"] for row in rows] == ["written out", "jax.nn"]
    assert sorted(name.split(", ")[-1] for name in problems) == ["Pallas", "cuDNN"]  # of GPUs alone
    with pytest.raises(ValueError, match="differs from float32"):
        attention._check(jnp.ones(3), jnp.zeros(3))


def test_parts_that_cannot_run_say_why_and_fail_the_run(load, tmp_path, monkeypatch, capsys):
    run = load("run")
    monkeypatch.setitem(run.PARTS["cpu"], "absent", ("no_such_part", ()))
    path = tmp_path / "cpu_a_b.json"
    path.write_text(json.dumps({"nearest": {"rows": [], "problems": {}}}))
    arguments = ["--only=absent", f"--results={tmp_path}", "--processor=A(R) B"]
    assert run.main([*arguments, "--rehearse"]) == 1
    assert json.loads(path.read_text()).keys() == {"nearest"}  # rehearsals keep nothing
    assert run.main(arguments) == 1
    assert "not measured: absent: exit status" in capsys.readouterr().out
    kept = json.loads(path.read_text())
    assert set(kept) == {"nearest", "absent"}  # `--only` leaves the others


def test_table_says_which_bars_are_met(load):
    table = load("table")
    rows = [
        {"what": "a", "peer": "eager", "ours_seconds": 2.0, "peer_seconds": 3.0, "ratio": 1.5}
        | load("timing").against_bar(1.5, 2.0),
        {"what": "b", "value": 31.0, "unit": "s"} | load("timing").against_bar(31.0, 60.0, True),
    ]
    text = table.text(
        {"part": {"rows": rows}, "other": {"ratios": {"torch_by_ours": 2.5}, "part_seconds": 9}}
    )
    assert "| part: a, against eager | 2 s | 3 s | 1.50 | 2 | NO |" in text
    assert "| part: b | 31 s |  |  | 60 | yes |" in text
    assert "| other: ratios, torch by ours | 2.5 |" in text


def test_gpu_suite_imports_nothing_that_its_machines_lack():
    """Shown by a process in which those modules can't be imported."""
    modules = ("limits", "nearest", "attention", "inference", "train_step", "compile_time", "run")
    code = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); " + "; ".join(
        f"import benchmarks.{name}" for name in modules
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_random_weights_keep_activations_in_range(load, sizes):
    """Neither vanishing nor growing, so that arithmetic is as costly as with trained weights."""
    from toklip_jax.models.toklip.token_encoder import TokenEncoder
    from toklip_jax.nn.config import Compute

    encoder = TokenEncoder(sizes[0].vision, Compute())
    codes = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16, 8)), jnp.float32)
    params = load("weights").random_params(
        encoder.init, jax.ShapeDtypeStruct((1, 16, 8), "float32")
    )
    tokens = encoder.apply(params, codes, method="tokens")
    assert 0.5 < float(jnp.std(tokens)) < 2
