"""The files that servers take, in the forms that their benchmarks document."""

import json
import pathlib
import xml.etree.ElementTree as ElementTree
import zipfile

import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.comprehension import build_benchmark, score, write_submission

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def submit(section, answers, path):
    benchmark = build_benchmark(section)
    data = benchmark.read()
    keys = [question.key for question in data.questions]
    write_submission(benchmark, data, dict(zip(keys, answers, strict=True)), path)


def sheet(path):
    """The cells of a spreadsheet by their places."""
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            ElementTree.fromstring(file.read(name))  # raises if it isn't XML
        root = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
    return {cell.get("r"): "".join(cell.itertext()) for cell in root.iter(f"{MAIN}c")}


@pytest.fixture
def test_dev(vqav2, write):
    """VQAv2's test-dev, a part of the whole test, without annotations."""
    content = json.loads((write.root / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())
    write.image("test2015/COCO_test2015_000000000042.jpg")
    part = content | {"data_subtype": "test-dev2015"}
    whole = content | {"data_subtype": "test2015"}
    other = {"image_id": 42, "question": "Of the rest?", "question_id": 1}
    whole["questions"] = [other, *content["questions"][::-1]]
    return {
        "kind": "vqav2",
        "questions": write.json("test-dev.json", part),
        "images": str(write.root / "test2015"),
        "submission_questions": write.json("test.json", whole),
    }


def test_vqav2_has_every_question_of_the_test(test_dev, tmp_path):
    submit(test_dev, ["Two.", "A net"], tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"question_id": 1, "answer": ""},
        {"question_id": 42001, "answer": "net"},
        {"question_id": 42000, "answer": "2"},
    ]
    part = test_dev | {"submission_questions": None}
    submit(part, ["Two.", "A net"], tmp_path / "b.json")
    assert len(json.loads((tmp_path / "b.json").read_text())) == 2
    swapped = part | {"submission_questions": test_dev["questions"]}
    swapped["questions"] = test_dev["submission_questions"]
    with pytest.raises(UserError, match="name the file of the whole test"):
        submit(swapped, ["", "", ""], tmp_path / "c.json")


def test_without_right_answers_there_is_a_protocol_and_no_figure(test_dev):
    benchmark = build_benchmark(test_dev)
    data = benchmark.read()
    result = score(benchmark, data, {question.key: "x" for question in data.questions})
    assert result.rows == []
    assert result.protocol["rule"].startswith("EvalAI's server")
    assert "scored by the benchmark's server" in str(result)


def test_mmbench_has_its_columns_and_the_answers_as_they_are(mmbench, write, tmp_path):
    section = mmbench | {"table": str(write.root / "mmbench_test.tsv")}
    lines = [line.split("\t") for line in pathlib.Path(mmbench["table"]).read_text().splitlines()]
    place = lines[0].index("answer")
    kept = ["\t".join(line[:place] + line[place + 1 :]) for line in lines]  # as in test splits
    write.text("mmbench_test.tsv", "\n".join(kept) + "\n")
    submit(section, ["B. <blue> & \x07red", "A", " B"], tmp_path / "a.xlsx")
    cells = sheet(tmp_path / "a.xlsx")
    heads = ["index", "question", "A", "B", "C", "D", "prediction", "split"]
    assert [cells[f"{letter}1"] for letter in "ABCDEFGH"] == heads
    assert [cells[f"A{row}"] for row in (2, 3, 4)] == ["7", "1000007", "8"]
    assert [cells[f"G{row}"] for row in (2, 3, 4)] == ["B. <blue> & red", "A", " B"]
    assert "E4" not in cells  # an option "None" is none
    with pytest.raises(UserError, match=r"ends with .xlsx"):
        submit(section, ["A"] * 3, tmp_path / "a.csv")
    with pytest.raises(UserError, match="at most 32767 characters"):
        submit(section, ["A" * 40_000] * 3, tmp_path / "b.xlsx")
    assert not list(tmp_path.glob("*b.xlsx"))


def test_mmmu_has_a_letter_or_the_open_answer(mmmu, tmp_path):
    submit(mmmu, ["(B) Dix", "3 of them"], tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "validation_Art_1": "B",
        "validation_Art_2": "3 of them",
    }


def test_a_benchmark_without_a_server_says_so(pope, tmp_path):
    with pytest.raises(UserError, match="expected a benchmark that a server scores, got POPE"):
        submit(pope, ["yes"] * 4, tmp_path / "a.json")
