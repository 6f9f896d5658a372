"""Logs are best effort: whatever they meet, training neither stops nor waits, and says it once."""

import json
import sys
import threading
import time
import types

import pytest
from line_fit import fit

from toklip_jax.training import best_effort, logging, sinks
from toklip_jax.training.best_effort import BestEffort
from toklip_jax.training.logging import METRICS_NAME, RunLog, read_metrics
from toklip_jax.training.loop import LoopContext
from toklip_jax.training.sinks import check_wandb


def full_disk(*args, **others):
    raise OSError(28, "No space left on device")


def warnings_of(caplog, about):
    return [record for record in caplog.records if about in record.getMessage()]


def write_steps(directory, steps=5, **others):
    with RunLog(directory, "train", 100, **others) as log:
        for step in range(1, steps + 1):
            log.advance()
            log.write(step, {"loss": 1.0})
    return [record["step"] for record in read_metrics(directory / METRICS_NAME)]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (sinks.Events, "__init__"),
        (sinks.Events, "add"),
        (sinks.Events, "close"),
        (sinks.Terminal, "say"),
        (sinks.Terminal, "advance"),
    ],
)
def test_a_log_that_raises_is_dropped_with_a_warning_and_the_others_continue(
    owner, name, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(owner, name, full_disk)
    assert write_steps(tmp_path) == [1, 2, 3, 4, 5]
    (warning,) = warnings_of(caplog, "continues without it")
    assert "No space left" in warning.getMessage()


def test_a_file_in_the_place_of_the_events_is_said(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("in the way")
    assert write_steps(tmp_path) == [1, 2, 3, 4, 5]
    assert len(warnings_of(caplog, "TensorBoard's log has stopped")) == 1


def test_a_log_that_is_stuck_is_not_waited_for(tmp_path, monkeypatch, caplog):
    ended = threading.Event()
    monkeypatch.setattr(best_effort, "MAX_WAITING", 2)
    log = BestEffort("the log", lambda: ended, close_seconds=0.05)
    began = time.monotonic()
    for _ in range(10):
        log.call(lambda opened: opened.wait(30))
    log.close()
    assert time.monotonic() - began < 5
    ended.set()
    log._thread.join(10)
    assert not log._thread.is_alive()
    assert len(warnings_of(caplog, "the log is stuck")) == 1


def test_calls_come_in_order_and_the_last_before_the_end():
    seen = []
    target = types.SimpleNamespace(close=lambda: seen.append("closed"))
    log = BestEffort("the log", lambda: target)
    for number in range(100):
        log.call(lambda _, number=number: seen.append(number))
    log.close()
    assert seen == [*range(100), "closed"]


def test_metrics_that_cannot_be_written_are_left_out_and_written_again_later(
    tmp_path, monkeypatch, caplog
):
    append = logging._Lines._append

    def broken(self, text):
        if '"step": 2' in text:
            append(self, text[:5])  # a part of a line, as a full disk leaves it
            full_disk()
        append(self, text)

    monkeypatch.setattr(logging._Lines, "_append", broken)
    assert write_steps(tmp_path) == [1, 3, 4, 5]
    assert len(warnings_of(caplog, METRICS_NAME)) == 1


def test_damaged_lines_are_left_out_and_a_resumed_log_has_none(tmp_path):
    lines = [
        b"5",
        b"\xff\xfe",
        b'{"loss": 1}',
        b"[" * 100_000,
        b'{"step": 3}',
        b'{"step": 4}',
        b'{"st',
    ]
    (tmp_path / METRICS_NAME).write_bytes(b'{"step": 1}\n' + b"\n".join(lines))
    with RunLog(tmp_path, "train", 10, start=3) as log:
        assert log.has(3)
        assert not log.has(2)
        log.write(4, {"loss": float("nan")})
    text = (tmp_path / METRICS_NAME).read_text()
    want = [{"step": 1}, {"step": 3}, {"step": 4, "loss": None}]
    assert [json.loads(line) for line in text.splitlines()] == want


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that keeps the arguments of every start, and what was logged."""
    calls = types.SimpleNamespace(starts=[], logged=[])

    def init(*, name=None, id=None, resume=None, dir=None, project=None):
        calls.starts.append({"name": name, "id": id, "resume": resume, "project": project})
        log = lambda scalars, step: calls.logged.append(step)  # noqa: E731
        return types.SimpleNamespace(log=log, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return calls


def test_a_resumed_run_is_the_same_wandb_run_and_another_never(tmp_path, wandb):
    asked = LoopContext(wandb={"project": "toklip"})
    fit(tmp_path / "a" / "run" / "stage", 2, context=asked)
    fit(tmp_path / "a" / "run" / "stage", 3, context=asked)
    fit(tmp_path / "b" / "run" / "stage", 1, context=asked)
    first, resumed, other = wandb.starts
    assert first == resumed
    assert (first["name"], first["resume"], first["project"]) == ("run-train", "allow", "toklip")
    assert other["id"] != first["id"]
    assert wandb.logged == [1, 2, 3, 1]


def test_the_configs_arguments_of_wandb_take_precedence(tmp_path, wandb):
    given = {"name": "mine", "id": "7", "resume": "must", "project": "p"}
    write_steps(tmp_path, wandb=given)
    assert wandb.starts == [given]
    assert not (tmp_path / sinks.WANDB_ID).exists()


def test_wandb_that_fails_to_start_does_not_stop_a_run(tmp_path, wandb, monkeypatch, caplog):
    monkeypatch.setattr(sys.modules["wandb"], "init", full_disk)
    assert write_steps(tmp_path, wandb={"project": "p"}) == [1, 2, 3, 4, 5]
    assert len(warnings_of(caplog, "Weights & Biases has stopped")) == 1


def test_mistakes_in_the_wandb_section_are_told_before_training(wandb, monkeypatch):
    check_wandb({})
    check_wandb({"project": "p"})
    with pytest.raises(ValueError, match=r"arguments of wandb.init .* got \['projekt'\]"):
        check_wandb({"projekt": "p"})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb, or empty the section"):
        check_wandb({"project": "p"})
