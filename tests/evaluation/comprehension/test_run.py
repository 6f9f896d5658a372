"""A model is asked in equal batches, its answers are kept as they come, and no others are mixed."""

import json
import logging
import pathlib

import numpy as np
import pytest

from toklip_jax.core.errors import Preempted, UserError
from toklip_jax.evaluation.comprehension import ask, build_benchmark, evaluate

MODEL = {"name": "table", "weights": "1"}
KEYS = ["popular/1", "popular/2", "random/1", "random/2"]


def files_of(directory):
    return sorted(directory.glob("*/answers-*.jsonl"))


def run(pope, model, directory, batch_size=3, identity=MODEL, **options):
    benchmark = build_benchmark(pope)
    data = benchmark.read()
    return ask(
        benchmark, data, model, directory, identity=identity, batch_size=batch_size, **options
    )


def test_every_call_is_of_one_size_and_each_question_is_asked_once(pope, from_table, tmp_path):
    model = from_table({}, default="Yes")
    answers = run(pope, model, tmp_path)
    assert answers == dict.fromkeys(KEYS, "Yes")
    assert [len(images) for images, _ in model.calls] == [3, 3]
    image = model.calls[0][0][1]
    assert (image.shape, image.dtype) == ((3, 4, 3), np.uint8)
    assert abs(int(image.mean()) - 101) <= 1
    (path,) = files_of(tmp_path)
    assert len(path.read_text().splitlines()) == 1 + len(KEYS)  # filling is not kept


def test_answers_of_text_alone_come_without_an_image(write, from_table, tmp_path):
    problem = {"question": "Q?", "choices": ["a", "b"], "answer": 1, "hint": "", "image": None}
    write.json("problems.json", {"1": problem})
    write.json("pid_splits.json", {"test": ["1"]})
    root = str(write.root)
    model = from_table({}, default="B")
    benchmark = build_benchmark({"kind": "scienceqa", "folder": root, "images": root})
    result = evaluate(benchmark, model, tmp_path, identity=MODEL)
    assert model.calls[0][0] == [None] * 8
    assert result.rows[0]["accuracy"].value == 1
    assert result.protocol["model"] == MODEL
    assert result.protocol["max_new_tokens"] == 128


class Stops(Exception):
    pass


class Interrupted:
    """A model that fails at its second call."""

    def __init__(self, calls=1):
        self.left = calls

    def answer(self, images, questions, *, max_new_tokens):
        if self.left == 0:
            raise Stops
        self.left -= 1
        return [f"first: {question}" for question in questions]


@pytest.mark.parametrize("torn", ["", '{"key": "random/1", "ans'])
def test_an_interrupted_run_asks_only_what_is_left(pope, from_table, tmp_path, torn, caplog):
    with pytest.raises(Stops):
        run(pope, Interrupted(), tmp_path, batch_size=2)
    (path,) = files_of(tmp_path)
    path.write_text(path.read_text() + torn)
    model = from_table({}, default="second\u2028line\n")
    with caplog.at_level(logging.INFO):
        answers = run(pope, model, tmp_path, batch_size=2)
    assert "2 of 4 answers are in" in caplog.text
    assert [answers[key][:6] for key in KEYS] == ["first:", "first:", "second", "second"]
    assert len(model.calls) == 1
    again = from_table({})
    assert run(pope, again, tmp_path, batch_size=2) == answers
    assert again.calls == []


def test_a_run_whose_first_line_was_cut_starts_anew(pope, from_table, tmp_path):
    run(pope, from_table({}, "a"), tmp_path)
    (path,) = files_of(tmp_path)
    whole = path.read_text()
    path.write_text(whole[:20])
    assert set(run(pope, from_table({}, "b"), tmp_path).values()) == {"b"}
    assert path.read_text() == whole.replace('"answer": "a"', '"answer": "b"')


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {"name": "table", "weights": "2"}},
        {"max_new_tokens": 7},
    ],
)
def test_answers_of_another_model_are_not_taken(pope, from_table, tmp_path, change):
    run(pope, from_table({}, "a"), tmp_path)
    assert set(run(pope, from_table({}, "b"), tmp_path, **change).values()) == {"b"}
    assert len(files_of(tmp_path)) == 2
    assert set(run(pope, from_table({}, "c"), tmp_path).values()) == {"a"}


def test_answers_to_other_questions_are_not_taken(pope, write, from_table, tmp_path):
    run(pope, from_table({}, "a"), tmp_path)
    with (write.root / "val2014/COCO_val2014_000000000000.jpg").open("ab") as file:
        file.write(b"another size")
    assert set(run(pope, from_table({}, "b"), tmp_path).values()) == {"b"}


def test_a_folder_that_was_moved_keeps_its_answers(pope, write, from_table, tmp_path):
    run(pope, from_table({}, "a"), tmp_path)
    write.root.rename(tmp_path / "moved")
    moved = {
        name: text.replace(str(write.root), f"{tmp_path}/moved") for name, text in pope.items()
    }
    assert set(run(moved, from_table({}, "b"), tmp_path).values()) == {"a"}


def test_files_of_others_and_damaged_ones_are_refused(pope, from_table, tmp_path):
    run(pope, from_table({}, "a"), tmp_path)
    (path,) = files_of(tmp_path)
    whole = path.read_text()
    path.write_text(whole.replace('"weights": "1"', '"weights": "2"'))
    with pytest.raises(UserError, match="same questions, model and settings"):
        run(pope, from_table({}), tmp_path)
    path.write_text(whole.replace('"answer": "a"', '"answer" "a"', 1))
    with pytest.raises(UserError, match="damaged in line 2"):
        run(pope, from_table({}), tmp_path)
    path.write_text(whole)
    other = whole.splitlines(keepends=True)[:2]
    path.with_name("answers-00001.jsonl").write_text("".join(other).replace(': "a"', ': "b"'))
    with pytest.raises(UserError, match="got two to"):
        run(pope, from_table({}), tmp_path)


@pytest.mark.parametrize(
    ("answers", "found"), [(["a"], "1 of them"), ([None] * 3, "a list of others"), ("abc", "a str")]
)
def test_a_model_that_answers_otherwise_is_refused(pope, tmp_path, answers, found):
    class Odd:
        def answer(self, images, questions, *, max_new_tokens):
            return answers

    with pytest.raises(UserError, match=f"list of 3 texts, got {found}"):
        run(pope, Odd(), tmp_path)


def test_what_cannot_be_asked_is_refused(pope, from_table, tmp_path):
    with pytest.raises(UserError, match="batch_size of at least 1"):
        run(pope, from_table({}), tmp_path, batch_size=0)
    with pytest.raises(UserError, match="identity of the model"):
        run(pope, from_table({}), tmp_path, identity={})
    with pytest.raises(UserError, match="name the model by its path or a hash"):
        run(pope, from_table({}), tmp_path, identity={"model": object()})


def test_an_image_that_cannot_be_read_is_named(pope, write, from_table, tmp_path):
    write.text("val2014/COCO_val2014_000000000001.jpg", "no image")
    with pytest.raises(UserError, match=r"000000000001\.jpg \(not an image\)"):
        run(pope, from_table({}), tmp_path)


def test_a_run_that_is_told_to_stop_keeps_what_it_has(pope, from_table, tmp_path, monkeypatch):
    told = iter([False, True])

    def stop_if_told():
        if next(told):
            raise Preempted

    monkeypatch.setattr("toklip_jax.evaluation.batches.stop_if_told", stop_if_told)
    with pytest.raises(Preempted):
        run(pope, from_table({}, "a"), tmp_path, batch_size=2)
    (path,) = files_of(tmp_path)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()[1:]] == KEYS[:2]


WORKER = """
import json, pathlib, sys, jax
rank, port, section, directory, shared = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(rank))
from toklip_jax.evaluation.comprehension import build_benchmark, evaluate
class Model:
    calls = 0
    def answer(self, images, questions, *, max_new_tokens):
        self.calls += 1
        return ["yes" if "dog" in question else f"no, {rank}" for question in questions]
model = Model()
if shared == "0":
    directory += rank
benchmark = build_benchmark(json.loads(section))
result = evaluate(benchmark, model, directory, identity={"name": "m"}, batch_size=1)
files = sorted(path.name for path in pathlib.Path(directory).glob("*/answers-*.jsonl"))
print("RESULT", model.calls, result.rows[-1]["accuracy"], result.rows[-1]["questions"], files)
"""


@pytest.mark.parametrize("shared", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_two_hosts_ask_their_shares_and_score_all(run_on_two_hosts, pope, tmp_path, shared):
    questions = pathlib.Path(pope["questions"]) / "coco_pope_random.json"
    # Three questions are left: one host has a call to fill up.
    questions.write_text(questions.read_text().splitlines()[1] + "\n")
    section, directory = json.dumps(pope), str(tmp_path / "answers")
    for calls in (2, 0):
        outputs = run_on_two_hosts(WORKER, section, directory, shared)
        for rank, (status, output) in enumerate(outputs):
            assert status == 0, output
            names = ["answers-00000.jsonl", "answers-00001.jsonl"]
            names = names if shared else names[rank : rank + 1]
            assert f"RESULT {calls} 1.0 3 {names}" in output
