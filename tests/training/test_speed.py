"""The figures of speed are those of training steps: what else a run does is not counted."""

import time

from line_fit import fit

from toklip_jax.training.logging import METRICS_NAME, read_metrics
from toklip_jax.training.loop import Checkpoints, LoopContext
from toklip_jax.training.speed import Speed


def test_pauses_are_left_out_of_every_figure():
    now = [0.0]
    speed = Speed(100, clock=lambda: now[0])
    assert speed.report(1) == {}
    with speed.paused():  # before the first step it changes nothing
        now[0] += 1000
    speed.begin(1, batch_size=8)
    now[0] += 4
    with speed.paused():
        now[0] += 1000
    now[0] += 4
    speed.waited(2.0)
    figures = speed.report(5)
    assert figures["seconds_per_step"] == 2.0
    assert figures["data_wait"] == 0.25
    assert figures["seconds_left"] == 95 * 2.0
    assert speed.report(5) == {}  # no step since


def test_evaluations_and_saves_of_a_run_are_not_counted(tmp_path, monkeypatch):
    save = Checkpoints.save

    def slow_save(self, *args):
        time.sleep(0.4)
        save(self, *args)

    def slow_evaluation(params):
        time.sleep(0.4)
        return {"r1": 0.5}

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    context = LoopContext(evaluate=slow_evaluation)
    fit(tmp_path, 4, context=context, evaluate_every=3, save_every=100)
    records = read_metrics(tmp_path / METRICS_NAME)
    slowest = max(r["speed"]["seconds_per_step"] for r in records if "speed" in r)
    assert slowest < 0.3
