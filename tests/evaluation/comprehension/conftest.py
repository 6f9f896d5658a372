"""Small stand-ins of the benchmarks' files, in the form in which each is published."""

import base64
import io
import json

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest


class Writer:
    """Writes files below a folder."""

    def __init__(self, root):
        self.root = root

    def image(self, name, colour=0):
        """Writes an image of one colour, 4 x 3, and returns its path."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.encoded(colour, "PNG" if name.endswith("png") else "JPEG"))
        return str(path)

    def encoded(self, colour=0, form="PNG"):
        file = io.BytesIO()
        PIL.Image.fromarray(np.full((3, 4, 3), colour, np.uint8)).save(file, form)
        return file.getvalue()

    def base64(self, colour=0):
        return base64.b64encode(self.encoded(colour)).decode()

    def text(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return str(path)

    def json(self, name, content):
        return self.text(name, json.dumps(content))

    def lines(self, name, rows):
        return self.text(name, "".join(json.dumps(row) + "\n" for row in rows))

    def tsv(self, name, rows):
        """Writes a table; every row has the fields of the first."""
        lines = [list(rows[0]), *(row.values() for row in rows)]
        return self.text(name, "".join("\t".join(map(str, line)) + "\n" for line in lines))


class FromTable:
    """A model that answers from a table of prompts; others it answers by `default`."""

    def __init__(self, table, default=""):
        self.table, self.default = table, default
        self.calls = []  # (images, prompts)

    def answer(self, images, questions, *, max_new_tokens):
        self.calls.append((images, questions))
        return [self.table.get(question, self.default) for question in questions]


@pytest.fixture
def write(tmp_path):
    return Writer(tmp_path / "data")


@pytest.fixture
def from_table():
    return FromTable


@pytest.fixture
def pope(write):
    """The section of a POPE of two sets, with two questions each about two images."""

    def questions(start):
        return [
            {"question_id": i + 1, "image": f"COCO_val2014_{i:012}.jpg",
             "text": f"Is there a {thing} in the image?", "label": label}
            for i, (thing, label) in enumerate([(f"dog{start}", "yes"), (f"cat{start}", "no")])
        ]  # fmt: skip

    for number in range(2):
        write.image(f"val2014/COCO_val2014_{number:012}.jpg", 100 + number)
    write.lines("coco/coco_pope_random.json", questions(0))
    write.lines("coco/coco_pope_popular.json", questions(1))
    root = write.root
    return {"kind": "pope", "questions": f"{root}/coco", "images": f"{root}/val2014"}


@pytest.fixture
def mme(write):
    """Two tasks, one in each of the layouts that MME's release mixes."""
    for name in ("a", "b"):
        write.image(f"mme/existence/{name}.jpg")
        write.text(
            f"mme/existence/{name}.txt",
            f"Is there a {name}? Please answer yes or no.\tYes\n"
            f"Is there no {name}? Please answer yes or no.\tNo\n",
        )
    write.image("mme/artwork/images/1.jpg")
    write.text(
        "mme/artwork/questions_answers_YN/1.txt",
        "Is it a print? Please answer yes or no.\tYes\n"
        "Is it a cast? Please answer yes or no.\tNo\n",
    )
    return {"kind": "mme", "path": str(write.root / "mme")}


@pytest.fixture
def vqav2(write):
    write.image("val2014/COCO_val2014_000000000042.jpg")
    questions = [{"image_id": 42, "question": f"What {i}?", "question_id": 42000 + i}
                 for i in range(2)]  # fmt: skip
    annotations = [
        {"question_id": 42000, "image_id": 42, "answer_type": "number", "question_type": "what",
         "multiple_choice_answer": "2",
         "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i + 1}
                     for i, a in enumerate(["2"] * 3 + ["3"] * 7)]},
        {"question_id": 42001, "image_id": 42, "answer_type": "other", "question_type": "what",
         "multiple_choice_answer": "net",
         "answers": [{"answer": "net", "answer_confidence": "yes", "answer_id": i + 1}
                     for i in range(10)]},
    ]  # fmt: skip
    common = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    return {
        "kind": "vqav2",
        "questions": write.json(name, common | {"task_type": "x", "questions": questions}),
        "annotations": write.json("annotations.json", common | {"annotations": annotations}),
        "images": str(write.root / "val2014"),
    }


@pytest.fixture
def seed(write):
    rows = [
        {"answer": "A", "choice_a": "One", "choice_b": "Two", "choice_c": "Three",
         "choice_d": "Four", "data_id": "145_259", "data_type": "image",
         "question": "How many towels?", "question_id": "101669", "question_type_id": 5},
        {"answer": "B", "choice_a": "a", "choice_b": "b", "choice_c": "c", "choice_d": "d",
         "data_id": "9.webm", "data_type": "video", "question": "What?", "question_id": "v1738",
         "question_type_id": 10, "segment": [1, 2]},
    ]  # fmt: skip
    types = {"Instances Counting": 5, "Action Recognition": 10}
    write.image("SEED-Bench-image/145_259")
    write.image("frames/v1738.png")
    return {
        "kind": "seed_bench",
        "questions": write.json("SEED-Bench.json", {"questions": rows, "question_type": types}),
        "images": str(write.root / "SEED-Bench-image"),
    }


@pytest.fixture
def scienceqa(write):
    problems = {
        "4": {"question": "Which figure?", "choices": ["chiasmus", "apostrophe"], "answer": 1,
              "hint": "", "image": None, "task": "closed choice", "lecture": "", "solution": ""},
        "5": {"question": "Which  one?", "choices": ["a", "b", "c"], "answer": 0,
              "hint": "Look.", "image": "image.png", "lecture": "", "solution": ""},
        "6": {"question": "Not asked", "choices": ["a", "b"], "answer": 0, "hint": "",
              "image": None},
    }  # fmt: skip
    write.json("sqa/problems.json", problems)
    write.json("sqa/pid_splits.json", {"test": ["4", "5"], "train": ["6"]})
    write.image("sqa/images/test/5/image.png")
    root = write.root / "sqa"
    return {"kind": "scienceqa", "folder": str(root), "images": str(root / "images")}


@pytest.fixture
def mmbench(write):
    common = {"question": "Which?", "hint": "Look."}
    tail = {"category": "ocr", "image": write.base64(3), "source": "x", "l2-category": "fine"}
    rows = [
        {"index": 7, **common, "A": "red", "B": "blue", "C": "", "D": "", "answer": "B", **tail},
        {"index": 1000007, **common, "A": "blue", "B": "red", "C": "", "D": "", "answer": "A",
         **tail, "image": "7"},
        {"index": 8, "question": "What?", "hint": "", "A": "one", "B": "two", "C": "None",
         "D": "four", "answer": "A", **tail, "category": "count"},
    ]  # fmt: skip
    rows = [row | {"comment": "", "split": "dev"} for row in rows]
    return {"kind": "mmbench", "table": write.tsv("mmbench_dev_20230712.tsv", rows)}


@pytest.fixture
def mmmu(write):
    image = {"bytes": write.encoded(5), "path": "a.png"}
    rows = [
        {"id": "validation_Art_1", "question": "Who made <image 1>?", "options": "['Klee', 'Dix']",
         "answer": "B", "question_type": "multiple-choice", "image_2": None},
        {"id": "validation_Art_2", "question": "How many?", "options": "[]",
         "answer": "['3', 'iii']", "question_type": "open", "image_2": image},
    ]  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["image_1"] = [image, image]
    path = write.root / "Art" / "validation-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return {"kind": "mmmu", "tables": f"{write.root}/*/validation-*.parquet"}
