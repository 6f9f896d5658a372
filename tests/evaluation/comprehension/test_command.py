"""`python -m toklip_jax.benchmark` asks a model, scores it, and writes what a server takes."""

import json

import pytest

from toklip_jax.cli import benchmark


@pytest.fixture
def command(monkeypatch, from_table, tmp_path):
    """`command(says, *flags)` runs it on a model that says one thing; returns the status."""

    def run(says, *flags):
        run.model = from_table({}, default=says)
        monkeypatch.setattr(benchmark, "load", lambda *_, **__: run.model)
        monkeypatch.setattr(benchmark, "fingerprint", lambda _: "1")
        return benchmark.main([*flags, "--weights=x", f"--output={tmp_path / 'out'}"])

    return run


def test_a_score_is_printed_and_kept(pope, command, tmp_path, capsys):
    flags = ["pope", f"--questions={pope['questions']}", f"--images={pope['images']}"]
    assert command("Yes", *flags, "--batch-size=3") == 0
    out = capsys.readouterr().out
    assert "POPE: a negation" in out
    kept = json.loads((tmp_path / "out" / "score_pope.json").read_text())
    assert kept["protocol"]["num_questions"] == 4
    assert kept["protocol"]["model"] == {"weights": "1", "dtype": "float32"}
    assert {row["set"]: row["accuracy"] for row in kept["rows"]}["random"] == 0.5
    assert [len(images) for images, _ in command.model.calls] == [3, 3]
    assert command("No", *flags) == 0  # nothing is left to ask
    assert command.model.calls == []


def test_fields_are_flags_and_a_submission_is_written(write, command, tmp_path, capsys):
    problem = {"question": "Q?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": None}
    write.json("problems.json", {"1": problem})
    write.json("pid_splits.json", {"test": ["1"]})
    flags = ["scienceqa", f"--folder={write.root}", f"--images={write.root}"]
    assert command("B", *flags, "--has-only-images=false") == 0
    assert command("B", *flags, "--split=nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert command("B", *flags, f"--submission={tmp_path / 'out.json'}") == 2
    assert "expected a benchmark that a server scores" in capsys.readouterr().err


def test_what_cannot_answer_is_refused(pope, command, monkeypatch, capsys):
    flags = ["pope", f"--questions={pope['questions']}", f"--images={pope['images']}"]
    monkeypatch.setattr(benchmark, "load", lambda *_, **__: object())
    assert benchmark.main([*flags, "--weights=x", "--output=y"]) == 2
    assert "expected a multimodal model's weights" in capsys.readouterr().err
