"""The loop and the step, on an objective small enough to check by hand."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from line_fit import Line, batches, fit

from toklip_jax.models.registry import TOKLIP
from toklip_jax.parallel.sharding import make_mesh, shardings
from toklip_jax.tasks.contrast import MAX_LOGIT_SCALE, clamp_logit_scale
from toklip_jax.training.checkpoints import Checkpoints
from toklip_jax.training.logging import line_parts, read_metrics
from toklip_jax.training.loop import LoopContext
from toklip_jax.training.loop_config import LoopConfig
from toklip_jax.training.optimizer import OptimizerConfig, learning_rate, scale_by_layer
from toklip_jax.training.state import merge, partition
from toklip_jax.training.step import create_state, make_step


def test_it_fits_what_trains_and_leaves_the_rest(tmp_path):
    params = fit(tmp_path, 120)
    np.testing.assert_allclose(params["slope"]["a"], 3, atol=0.02)
    assert params["slope"]["b"] == 1


def test_a_run_that_broke_off_ends_where_an_unbroken_one_does(tmp_path):
    class Broken(Exception):
        pass

    def breaks_off(start):
        for step, batch in enumerate(batches(start), start):
            if step == 25:
                raise Broken
            yield batch

    with pytest.raises(Broken):
        fit(tmp_path / "broken", source=breaks_off)
    assert [r["step"] for r in read_metrics(tmp_path / "broken" / "metrics.jsonl")][-1] == 25
    resumed, unbroken = fit(tmp_path / "broken"), fit(tmp_path / "unbroken")
    np.testing.assert_array_equal(resumed["slope"]["a"], unbroken["slope"]["a"])
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("broken", "unbroken")]
    for record in logs[0] + logs[1]:
        record.pop("speed", None)
    assert logs[0] == logs[1]  # randomness too; each step once


def test_steps_that_are_not_finite_change_nothing_and_many_in_a_row_end_the_run(tmp_path):
    def bad(start, where):
        for step, batch in enumerate(batches(start), start):
            keys = {"keys": [f"sample {step}"]}
            yield batch | keys if step not in where else {**batch, "x": batch["x"] * np.nan} | keys

    once = fit(tmp_path / "once", 14, source=lambda start: bad(start, {5}), max_skipped_in_a_row=3)
    assert np.isfinite(once["slope"]["a"])
    record = read_metrics(tmp_path / "once" / "metrics.jsonl")[5]
    assert (record["step"], record["is_skipped"], record["loss"]) == (6, 1.0, None)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row \(13 to 15\)"):
        fit(tmp_path, source=lambda start: bad(start, range(12, 40)), max_skipped_in_a_row=3)
    (dump,) = tmp_path.glob("not_finite_*.json")
    keys = [record["keys"] for record in json.loads(dump.read_text())]
    assert keys == [["sample 12"], ["sample 13"], ["sample 14"]]
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step >= 15
        optimizer = OptimizerConfig(0.3, 2, weight_decay=0.0)
        trainable, _ = partition(Line().init(None), Line.trainable)
        state = checkpoints.restore(place_state(create_state(trainable, optimizer, 40), mesh))
    assert np.isfinite(state.params["slope"]["a"])
    assert int(state.skipped) == int(state.step) - 12


def place_state(state, mesh):
    return jax.device_put(state, shardings(state, mesh))


def test_the_running_mean_is_what_is_returned(tmp_path):
    decay = 0.9
    optimizer = OptimizerConfig(0.3, 2, weight_decay=0.0, ema_decay=decay)
    step = jax.jit(make_step(Line(), optimizer, 5))
    trainable, frozen = partition(Line().init(None), Line.trainable)
    state, mean = create_state(trainable, optimizer, 5), 0.0
    for _, batch in zip(range(5), batches(0), strict=False):
        state, _ = step(state, frozen, batch)
        mean = decay * mean + (1 - decay) * float(state.params["slope"]["a"])
    np.testing.assert_allclose(state.ema["slope"]["a"], mean, rtol=1e-6)
    got = fit(tmp_path, 5, optimizer=optimizer)
    np.testing.assert_allclose(got["slope"]["a"], mean, rtol=1e-6)


def test_a_gradient_is_clipped_to_its_norm_and_reported_unclipped():
    norms = []
    for clip_norm in (0.0, 1e-3):
        optimizer = OptimizerConfig(0.3, 1, weight_decay=0.0, eps=1.0, clip_norm=clip_norm)
        trainable, frozen = partition(Line().init(None), Line.trainable)
        state = create_state(trainable, optimizer, 5)
        state, metrics = make_step(Line(), optimizer, 5)(state, frozen, next(batches(0)))
        norms.append(float(metrics["grad_norm"]))
        moved = float(state.params["slope"]["a"])
        # AdamW's first step: lr g / (|g| + eps).
        gradient = clip_norm or norms[-1]
        np.testing.assert_allclose(moved, 0.3 * gradient / (gradient + 1), rtol=1e-4)
    assert norms[0] == norms[1]


def test_the_schedule_warms_up_and_ends_at_zero():
    rates = [float(learning_rate(OptimizerConfig(1.0, 4), 12)(step)) for step in range(13)]
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(rates[8], 0.5, atol=1e-6)
    np.testing.assert_allclose(rates[12], 0, atol=1e-6)


def test_the_logit_scale_stays_within_its_bounds():
    for value, want in ((9.0, MAX_LOGIT_SCALE), (-1.0, 0.0), (2.0, 2.0)):
        got = clamp_logit_scale({"logit_scale": jnp.float32(value)})["logit_scale"]
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert clamp_logit_scale({"other": 1}) == {"other": 1}


def test_partition_and_merge_undo_each_other_and_a_stray_pattern_is_refused():
    params = {"a": {"x": 1, "y": 2}, "b": 3}
    trainable, frozen = partition(params, ("a/x",))
    assert (trainable, frozen) == ({"a": {"x": 1}}, {"a": {"y": 2}, "b": 3})
    assert merge(trainable, frozen) == params
    with pytest.raises(ValueError, match=r"expected a pattern of parameters under \['a', 'b'\]"):
        partition(params, ("c/.*",))
    with pytest.raises(ValueError, match="of at least 1"):
        LoopConfig(0)


@pytest.mark.parametrize("is_stacked", [True, False])
def test_layer_decay_shrinks_the_updates_of_lower_layers(is_stacked):
    block = {"mlp": {"fc1": {"kernel": jnp.ones((2, 2))}}}
    blocks = {f"blocks_{i}": block for i in range(3)}
    if is_stacked:
        blocks = {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks.values())}
    updates = {
        "token_encoder": {
            "stack": blocks,
            "pos_embed": jnp.ones(2),
            "norm": {"scale": jnp.ones(2)},
        },
        "logit_scale": jnp.ones(()),
    }
    got, _ = scale_by_layer(0.5, TOKLIP.embeddings).update(updates, None)
    found = got["token_encoder"]["stack"]
    if is_stacked:
        layers = found["blocks"]["mlp"]["fc1"]["kernel"][:, 0, 0]
    else:
        layers = [found[f"blocks_{i}"]["mlp"]["fc1"]["kernel"][0, 0] for i in range(3)]
    np.testing.assert_allclose(layers, [0.25, 0.5, 1.0])
    assert float(got["token_encoder"]["pos_embed"][0]) == 0.125
    assert float(got["token_encoder"]["norm"]["scale"][0]) == 1
    assert float(got["logit_scale"]) == 1


def test_a_line_says_what_people_ask_of_a_run():
    speed = {
        "images_per_second_per_chip": 123.4, "mfu": 0.456, "data_wait": 0.07, "seconds_left": 3720,
    }  # fmt: skip
    metrics = {"loss": 1.23456, "learning_rate": 1e-5}
    heading = "stage 3 of 3, toklip"
    assert line_parts(heading, 50, 1000, metrics, speed, run_seconds_left=7260) == [
        "stage 3 of 3, toklip 50/1000",
        "loss 1.235",
        "learning_rate 1e-05",
        "123.4 images/s/chip",
        "MFU 45.6%",
        "data wait 7%",
        "1 h 2 min left",
        "about 2 h 1 min left of the run",
    ]


class SlowLine(Line):
    """A step takes a tenth of a second or more."""

    def encode(self, params, batch, rng):
        def turn(_, matrix):
            return matrix @ matrix

        still = jax.lax.fori_loop(0, 800, turn, jnp.eye(256) * jnp.sign(batch["x"][0])) * 0
        return super().encode(params, {**batch, "x": batch["x"] + still[0, 0]}, rng)


@pytest.mark.parametrize(("objective", "is_waiting"), [(Line, True), (SlowLine, False)])
def test_waiting_for_data_counts_where_no_step_runs_meanwhile(objective, is_waiting, tmp_path):
    def slow(start):
        for batch in batches(start):
            time.sleep(0.05)
            yield batch

    fit(tmp_path, 21, source=slow, objective=objective(), log_every=20, save_every=100)
    share = read_metrics(tmp_path / "metrics.jsonl")[0]["speed"]["data_wait"]
    assert share > 0.5 if is_waiting else share < 0.2  # nearer to a half were all waiting counted


def test_a_profile_is_written_of_the_steps_asked_for(tmp_path):
    fit(tmp_path, 6, context=LoopContext(profile=(2, 4)))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_bad_samples_above_the_share_end_the_run_with_their_list(tmp_path):
    def bad(start):
        for batch in batches(start):
            yield batch | {"skipped": [("00000.tar:17", "no caption")] * 8}

    with pytest.raises(ValueError, match=r"no caption: \d+: 00000.tar:17"):
        fit(tmp_path, 200, source=bad, max_bad_share=0.2)


def test_a_checkpoint_of_another_config_is_refused_unless_allowed(tmp_path, capsys):
    def of(seed, steps, **fields):
        return fit(tmp_path, steps, context=LoopContext(description={"seed": seed}, **fields))

    of(0, 10)
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        of(1, 20)
    of(1, 20, allow_change=True)
    assert "seed: 0 there, 1 now" in capsys.readouterr().out


def test_a_best_metric_that_no_evaluation_has_is_refused(tmp_path):
    evaluated = LoopContext(evaluate=lambda params: {"validation/r1": 0.5})
    with pytest.raises(ValueError, match=r"expected loop.best of \['validation/r1'\], got 'r1'"):
        fit(tmp_path / "a", 4, context=evaluated, evaluate_every=2, best="r1")
    fit(tmp_path / "b", 4, context=evaluated, evaluate_every=2, best="validation/r1")
    assert [r["step"] for r in read_metrics(tmp_path / "b" / "metrics.jsonl")] == [1, 2, 3, 4]
