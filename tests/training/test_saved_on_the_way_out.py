"""Whatever ends the loop early, the steps that are done are saved, and the same call continues."""

import os
import signal
import time

import jax
import pytest
from line_fit import batches, fit

from toklip_jax.core.errors import Preempted, TryAgain
from toklip_jax.training import loop
from toklip_jax.training.checkpoints import Checkpoints
from toklip_jax.training.logging import read_metrics
from toklip_jax.training.loop import LoopContext

RARELY = {"save_every": 100, "log_every": 1}


def saved_step(directory):
    with Checkpoints(directory / "checkpoints") as checkpoints:
        return checkpoints.latest_step


def failing(error, at):
    def source(start):
        for step, batch in enumerate(batches(start), start):
            if step == at:
                raise error
            yield batch

    return source


def evaluation_that_fails_once(error):
    """Returns the evaluation, and the parameters that it has seen so far."""
    seen = []

    def evaluate(params):
        seen.append(float(params["slope"]["a"]))
        if len(seen) == 1:
            raise error
        return {"r1": 0.5}

    return evaluate, seen


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("unbroken"), 8, **RARELY)["slope"]["a"]


@pytest.mark.parametrize(
    "error",
    [ValueError("a bad sample"), TryAgain("workers were lost"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_data_that_fail(error, tmp_path, unbroken):
    with pytest.raises(type(error)):
        fit(tmp_path, 8, source=failing(error, at=5), **RARELY)
    assert saved_step(tmp_path) == 5
    assert fit(tmp_path, 8, **RARELY)["slope"]["a"] == unbroken


def test_too_many_bad_samples(tmp_path):
    def bad(start):
        for step, batch in enumerate(batches(start), start):
            yield batch | {"skipped": [("00000.tar:17", "no caption")] * 1000 * (step == 3)}

    with pytest.raises(ValueError, match="no caption: 1000"):
        fit(tmp_path, 8, source=bad, **RARELY)
    assert saved_step(tmp_path) == 3


@pytest.mark.parametrize("best", ["", "r1"])
def test_an_evaluation_that_raises_and_is_made_up_for(best, tmp_path, unbroken):
    evaluate, seen = evaluation_that_fails_once(OSError("no picture can be read"))
    options = {"context": LoopContext(evaluate=evaluate), "evaluate_every": 4, "best": best}
    with pytest.raises(OSError, match="no picture"):
        fit(tmp_path, 8, **options, **RARELY)
    assert saved_step(tmp_path) == 4
    assert fit(tmp_path, 8, **options, **RARELY)["slope"]["a"] == unbroken
    assert seen[0] == seen[1]  # step 4's, which the first run ended in
    logged = [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl") if "r1" in r]
    assert logged == [4, 8]


def test_an_evaluation_starts_after_a_save(tmp_path):
    """A process that is killed within it saves nothing more."""
    seen, saved = [], tmp_path / "checkpoints" / "4"

    def evaluate(params):
        deadline = time.monotonic() + 20
        while not saved.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(saved.exists())
        return {"r1": 0.5}

    fit(tmp_path, 5, context=LoopContext(evaluate=evaluate), evaluate_every=4, **RARELY)
    assert seen[0]


def test_the_last_evaluation_is_made_up_for_too(tmp_path):
    evaluate, seen = evaluation_that_fails_once(RuntimeError("out of memory"))
    options = {"context": LoopContext(evaluate=evaluate), "evaluate_every": 8}
    with pytest.raises(RuntimeError):
        fit(tmp_path, 8, **options, **RARELY)
    for _ in range(2):  # the second finds it done
        fit(tmp_path, 8, **options, **RARELY)
    assert len(seen) == 2


@pytest.mark.parametrize("is_within", ["a step", "an evaluation"])
def test_a_signal(is_within, tmp_path, unbroken):
    signals = []

    def send():
        if not signals:
            signals.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    def source(start):
        for step, batch in enumerate(batches(start), start):
            if step == 3 and is_within == "a step":
                send()
            yield batch

    def evaluate(params):
        if is_within == "an evaluation":
            send()
        return {"r1": 0.5}

    options = {"context": LoopContext(evaluate=evaluate), "evaluate_every": 4, "source": source}
    with pytest.raises(Preempted):
        fit(tmp_path, 8, **options, **RARELY)
    assert saved_step(tmp_path) == 4
    assert fit(tmp_path, 8, **options, **RARELY)["slope"]["a"] == unbroken


@pytest.mark.parametrize("part", ["save", "wait"])
def test_a_save_that_fails_hides_no_error(part, tmp_path, monkeypatch, caplog):
    def full(self, *arguments):
        raise OSError("no space left")

    monkeypatch.setattr(loop.Checkpoints, part, full)
    with pytest.raises(ValueError, match="a bad sample"):
        fit(tmp_path, 8, source=failing(ValueError("a bad sample"), at=2), **RARELY)
    assert "step 2 could not be saved (no space left) after: a bad sample" in caplog.text


def test_a_host_that_ends_alone_saves_no_step(tmp_path, monkeypatch, caplog):
    """The others may be at another step, or gone: a save needs all of them."""
    monkeypatch.setattr(loop, "all_arrive", lambda name, seconds: False)
    with pytest.raises(ValueError, match="a bad sample"):
        fit(tmp_path, 8, source=failing(ValueError("a bad sample"), at=2), **RARELY)
    assert saved_step(tmp_path) is None
    assert "step 2 is not saved: not all hosts have ended at it" in caplog.text


def test_parameters_are_never_saved_from_a_step_that_broke_off(tmp_path, monkeypatch, caplog):
    """The step has taken its state's memory by then: what was saved before stays the newest."""

    def broken(self, frozen, bad, advance=loop._Loop._advance):
        if self.last[0] == 3:
            for leaf in jax.tree.leaves(self.last[1]):
                leaf.delete()
            raise RuntimeError("RESOURCE_EXHAUSTED")
        advance(self, frozen, bad)

    monkeypatch.setattr(loop._Loop, "_advance", broken)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        fit(tmp_path, 8, save_every=2, log_every=1)
    assert saved_step(tmp_path) == 2
    assert "step 3 could not be saved" in caplog.text
