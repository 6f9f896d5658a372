"""Files and answers that don't fit get one error that names what is wrong."""

import json
import pathlib

import pyarrow
import pyarrow.parquet
import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.evaluation.comprehension import (
    BENCHMARKS,
    Benchmark,
    build_benchmark,
    register_benchmark,
    score,
)


def read(section):
    return build_benchmark(section).read()


def changed(path, old, new, count=-1):
    path = pathlib.Path(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def test_pope(pope):
    path = f"{pope['questions']}/coco_pope_random.json"
    changed(path, '"no"', '"maybe"')
    with pytest.raises(UserError, match=r"label yes or no in line 2 of .*got 'maybe'"):
        read(pope)
    changed(path, '"maybe"', '"no"')
    changed(path, '"question_id": 2', '"question_id": 1')
    with pytest.raises(UserError, match="each question once, got 'random/1' 2 times"):
        read(pope)
    changed(path, '"question_id": 1', '"question": 1', 1)
    with pytest.raises(UserError, match="expected 'question_id' in line 1 of"):
        read(pope)
    changed(path, "{", "")
    with pytest.raises(UserError, match="which can't be read"):
        read(pope)
    with pytest.raises(UserError, match="found none: check the folder"):
        read(pope | {"questions": pope["images"]})
    with pytest.raises(FileNotFoundError, match="found no file"):
        read(pope | {"questions": f"{pope['questions']}/none.json"})
    with pytest.raises(FileNotFoundError, match="found no folder"):
        read(pope | {"images": "/nowhere"})


@pytest.mark.parametrize(
    ("kind", "file", "old", "new", "message"),
    [
        ("pope", "questions", '"Is there a cat', '3, "x": "', "'text' of type str in line 2 of"),
        ("vqav2", "questions", '"image_id": 42', '"image_id": "cat"', "'image_id' of type int in"),
        ("vqav2", "annotations", '"answer": "net"', '"answer": null', "'answer' of type str in"),
        (
            "vqav2",
            "annotations",
            '"answers": [',
            '"answers": [], "x": [',
            "10 people in annotation",
        ),
        ("seed", "questions", '"data_id": "145_259"', '"data_id": 3', "'data_id' of type str in"),
    ],
)
def test_values_of_other_types(request, kind, file, old, new, message):
    """They are found when the files are read: not after all questions were asked."""
    section = request.getfixturevalue(kind)
    path = pathlib.Path(section[file])
    changed(path / "coco_pope_random.json" if path.is_dir() else path, old, new, 1)
    with pytest.raises(UserError, match=message):
        read(section)


def test_textvqa_and_scienceqa_of_other_types(scienceqa, write):
    write.image("1.jpg")
    row = {"question": "?", "image_id": "1", "question_id": 1, "answers": ["a"] * 9}
    section = {"kind": "textvqa", "questions": write.json("a.json", {"data": [row]})}
    with pytest.raises(UserError, match=r"10 people in question 1 of .*got 9"):
        read(section | {"images": str(write.root)})
    changed(f"{scienceqa['folder']}/problems.json", '"hint": "Look."', '"hint": null')
    with pytest.raises(UserError, match="'hint' of type str in problem 5 of"):
        read(scienceqa)


def test_missing_images(pope, write):
    (write.root / "val2014/COCO_val2014_000000000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"none for 2 .*'popular/2', at .*000001.jpg"):
        read(pope)
    changed(f"{pope['questions']}/coco_pope_random.json", "COCO_val2014", "../COCO_val2014")
    with pytest.raises(UserError, match="expected an image's name within"):
        read(pope)


def test_answers(pope):
    benchmark = build_benchmark(pope)
    data = benchmark.read()
    answers = {question.key: "yes" for question in data.questions}
    with pytest.raises(UserError, match=r"an answer for no question for 1 keys .*'random/9'"):
        score(benchmark, data, answers | {"random/9": "yes"})
    del answers["random/2"]
    with pytest.raises(UserError, match=r"got none for 1 keys .*'random/2'"):
        score(benchmark, data, answers)


def test_mme(mme, write):
    with pytest.raises(UserError, match="expected folders such as existence"):
        read(mme | {"path": str(write.root / "mme/artwork")})
    changed(write.root / "mme/existence/b.txt", "\tNo", " No")
    with pytest.raises(UserError, match="a question and Yes or No in line 2 of"):
        read(mme)
    changed(write.root / "mme/existence/b.txt", "Is there no b? Please answer yes or no. No\n", "")
    with pytest.raises(UserError, match="2 questions about each image of existence, got 1 about b"):
        read(mme)
    (write.root / "mme/existence/b.jpg").unlink()
    write.text("mme/existence/b.txt", "One?\tYes\nTwo?\tNo\n")
    with pytest.raises(FileNotFoundError, match=r"none for 2 .*existence/b/0"):
        read(mme)


def test_vqav2(vqav2):
    changed(vqav2["annotations"], '"question_id": 42001', '"question_id": 42000')
    with pytest.raises(UserError, match="got 42000 twice"):
        read(vqav2)
    changed(vqav2["annotations"], '"question_id": 42000', '"question_id": 5', 1)
    with pytest.raises(UserError, match="found none for 42001"):
        read(vqav2)
    changed(vqav2["questions"], '"data_subtype"', '"subtype"')
    with pytest.raises(UserError, match="expected 'data_subtype' in"):
        read(vqav2)


def test_gqa_is_an_object(write):
    section = {"kind": "gqa", "questions": write.json("a.json", []), "images": str(write.root)}
    with pytest.raises(UserError, match="expected an object of question ids"):
        read(section)


def test_textvqa(write):
    write.image("1.jpg")
    rows = [{"question": "?", "image_id": "1", "question_id": i, "answers": ["a"] * 10}
            for i in range(2)]  # fmt: skip
    del rows[1]["answers"]
    content = {"data": rows}
    section = {"kind": "textvqa", "questions": write.json("a.json", content)}
    section["images"] = str(write.root)
    with pytest.raises(UserError, match=r"every question of a.json or to none, got none to 1"):
        read(section)
    ocr = write.json("ocr.json", {"data": [{"image_id": "2", "ocr_tokens": []}]})
    with pytest.raises(UserError, match=r"expected tokens of every image .* found none of 1"):
        read(section | {"ocr": ocr})
    write.json("a.json", {"data": {}})
    with pytest.raises(UserError, match="expected a list of records"):
        read(section)


def test_seed_bench(seed):
    changed(seed["questions"], '"answer": "A"', '"answer": "E"')
    with pytest.raises(UserError, match=r"an answer of ABCD in question 1 of .*got 'E'"):
        read(seed)
    changed(seed["questions"], '"data_type": "image"', '"data_type": "Single Image"')
    with pytest.raises(UserError, match="data_type of question 1"):
        read(seed)
    changed(seed["questions"], '"question_type_id": 5', '"question_type_id": 6')
    changed(seed["questions"], "Single Image", "image")
    with pytest.raises(UserError, match=r"question_type_id of \[5, 10\] in question 1"):
        read(seed)


def test_scienceqa(scienceqa):
    with pytest.raises(UserError, match=r"expected 'minitest' in .*found \['test', 'train'\]"):
        read(scienceqa | {"split": "minitest"})
    changed(f"{scienceqa['folder']}/problems.json", '"answer": 1', '"answer": 2')
    with pytest.raises(UserError, match=r"problem 4 of .*got 2 of 2"):
        read(scienceqa)
    changed(f"{scienceqa['folder']}/problems.json", '"4"', '"44"')
    with pytest.raises(UserError, match="expected '4' in"):
        read(scienceqa)


def test_mmbench(mmbench, write):
    table = pathlib.Path(mmbench["table"])
    whole = table.read_text()
    for old, new, message in [
        ("\tA\tocr", "\tC\tocr", "an answer of AB in row 1000007 .*got 'C'"),
        ("\t7\tx", "\t9\tx", "an image in base64 in row 1000007 .*got '9'"),
        ("\tone\ttwo", "\t\ttwo", "expected options from A on in row 8"),
        ("\n8\t", "\nx8\t", "expected a number as the index of row x8"),
        ("\tdev\n", "\n", "13 values|14 values"),
        ("index\t", "number\t", "expected a column 'index'"),
        ("\n8\t", "\n7\t", "each question once, got '7' 2 times"),
    ]:
        table.write_text(whole)
        changed(table, old, new)
        with pytest.raises(UserError, match=message):
            read(mmbench)
    rows = [line for line in whole.splitlines() if not line.startswith("8\t")]
    image = write.base64(3)
    table.write_text("\n".join([rows[0], rows[2].replace("\t7\tx", f"\t{image}\tx")]) + "\n")
    benchmark = build_benchmark(mmbench)
    with pytest.raises(UserError, match=r"expected the row 7 of .*rotated ones only"):
        score(benchmark, benchmark.read(), {"1000007": "A"})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", "Art_1", "an id such as validation_Art_1 in row 1 of"),
        ("options", "Klee", "a list of texts in row 1 of .*got 'Klee'"),
        ("answer", "C", "an answer of AB in row 1 of .*got 'C'"),
        ("image_1", {"bytes": None, "path": "a"}, "the bytes of image_1 in row 1"),
    ],
)
def test_mmmu(mmmu, write, field, value, message):
    path = write.root / "Art" / "validation-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    rows[0][field] = value
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(UserError, match=message):
        read(mmmu)


def test_no_questions(write):
    section = {"kind": "gqa", "questions": write.json("a.json", {}), "images": str(write.root)}
    with pytest.raises(UserError, match=r"expected questions of a.json, found none"):
        read(section)


def test_sections():
    with pytest.raises(UserError, match="did you mean 'pope'"):
        build_benchmark({"kind": "pop"})
    with pytest.raises(UserError, match="expected a kind"):
        build_benchmark({})
    with pytest.raises(UserError, match="did you mean 'images'"):
        build_benchmark({"kind": "pope", "questions": "", "image": ""})
    for kind, field in (("mmbench", "form"), ("mmbench", "language"), ("mmmu", "fallback")):
        path = {"mmbench": "table", "mmmu": "tables"}[kind]
        with pytest.raises(UserError, match=f"expected {field} among"):
            build_benchmark({"kind": kind, path: "", field: "x"})
    with pytest.raises(UserError, match="expected prompt_form among"):
        build_benchmark({"kind": "mme", "path": "", "prompt_form": "x"})


def test_the_registry_takes_benchmarks_only():
    with pytest.raises(UserError, match="a dataclass that is a Benchmark"):
        register_benchmark("mine", Benchmark)
    with pytest.raises(UserError, match="expected a new name"):
        register_benchmark("pope", BENCHMARKS["gqa"])
    register_benchmark("pope", BENCHMARKS["pope"])


def test_every_benchmark_says_what_it_asks():
    assert all(cls.about.endswith(".") for cls in BENCHMARKS.values())
    assert json.dumps(sorted(BENCHMARKS)) == json.dumps(list(BENCHMARKS))
