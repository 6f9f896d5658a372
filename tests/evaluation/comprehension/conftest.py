"""Small stand-ins of the benchmarks' files, in the form in which each is published."""

import base64
import io
import json

import numpy as np
import PIL.Image
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
