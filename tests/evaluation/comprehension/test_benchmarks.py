"""Each benchmark reads its files, asks as LLaVA-1.5 asks, and scores by its rule."""

import json

import pytest

from toklip_jax.evaluation.comprehension import build_benchmark, score

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def table(section, answers):
    """The rows of a score by the name of their set; `answers` are in the order of the questions."""
    benchmark = build_benchmark(section)
    data = benchmark.read()
    keys = [question.key for question in data.questions]
    result = score(benchmark, data, dict(zip(keys, answers, strict=True)))
    return {row["set"]: row for row in result.rows}


def prompts(section):
    return [question.prompt for question in build_benchmark(section).read().questions]


def test_pope_has_a_row_for_each_set_and_their_mean(pope):
    assert prompts(pope)[0] == f"Is there a dog1 in the image?{SHORT}"
    rows = table(pope, ["Yes", "No, there isn't.", "yes", "Yes."])
    assert list(rows) == ["popular", "random", "mean of the sets"]
    assert rows["popular"]["accuracy"] == rows["popular"]["f1"] == 1.0
    assert rows["random"]["accuracy"] == 0.5
    assert rows["mean of the sets"]["f1"] == pytest.approx((1 + 2 / 3) / 2)
    only = pope | {"questions": f"{pope['questions']}/coco_pope_random.json"}
    assert list(table(only, ["no", "no"])) == ["random"]


def test_mme_reads_both_layouts_and_counts_images(mme):
    assert prompts(mme)[0] == f"Is there a a?{SHORT}"
    original = prompts(mme | {"prompt_form": "original"})
    assert original[0] == "Is there a a? Please answer yes or no."
    rows = table(mme, ["Yes", "No", "yes", "Yes", "Maybe", "no"])
    assert list(rows) == ["existence", "artwork"]  # no totals, as tasks are missing
    assert rows["existence"]["score"] == 75 + 50
    assert rows["artwork"]["score"] == 50
    assert build_benchmark(mme).read().split == "2 of 14 tasks"


def test_mme_has_totals_where_all_tasks_are_there(write, mme):
    from toklip_jax.evaluation.comprehension.mme import TASKS

    for task in TASKS:
        write.image(f"mme/{task}/x.png")
        write.text(f"mme/{task}/x.txt", "One?\tYes\nTwo?\tNo\n")
    write.image("mme/artwork/images/x.jpg")
    write.text("mme/artwork/questions_answers_YN/x.txt", "One?\tYes\nTwo?\tNo\n")
    data = build_benchmark(mme).read()
    right = {question.key: question.reference for question in data.questions}
    rows = {row["set"]: row for row in score(build_benchmark(mme), data, right).rows}
    assert rows["perception"]["score"] == 2000
    assert rows["cognition"]["score"] == 800
    assert rows["cognition"]["questions"] == 8


def test_mme_reads_a_table(write):
    common = {"question": "Is it? Please answer yes or no.", "category": "OCR"}
    rows = [
        {"index": 0, "image": write.base64(1), **common, "answer": "Yes"},
        {"index": 1, "image": "0", **common, "answer": "No"},
    ]
    section = {"kind": "mme", "path": write.tsv("MME.tsv", rows)}
    assert table(section, ["yes", "no"])["OCR"]["score"] == 200


def test_gqa_compares_exactly_and_by_type(write):
    rows = {
        "201": {"question": "Is it?", "imageId": "n1", "answer": "no",
                "types": {"structural": "verify", "semantic": "obj", "detailed": "existC"}},
        "202": {"question": "What is it?", "imageId": "n1", "answer": "cat",
                "types": {"structural": "query", "semantic": "obj", "detailed": "x"}},
    }  # fmt: skip
    write.image("images/n1.jpg")
    section = {
        "kind": "gqa",
        "questions": write.json("testdev_balanced_questions.json", rows),
        "images": str(write.root / "images"),
    }
    assert prompts(section) == [f"Is it?{SHORT}", f"What is it?{SHORT}"]
    rows = table(section, ["No.", "a cat"])
    assert rows["all"]["accuracy"].value == 0.5
    assert rows["structural: verify"]["accuracy"].value == 1
    assert rows["structural: query"]["accuracy"].value == 0
    assert rows["semantic: obj"]["questions"] == 2


def test_vqav2_compares_with_ten_people(vqav2):
    assert prompts(vqav2)[1] == f"What 1?{SHORT}"
    rows = table(vqav2, ["two", "The net."])
    assert rows["number"]["accuracy"].value == pytest.approx(0.9)
    assert rows["other"]["accuracy"].value == 1
    assert rows["all"]["accuracy"].value == pytest.approx(0.95)


def test_textvqa_asks_with_and_without_tokens(write, golden):
    write.image("train_images/003a.jpg")
    row = {"question": "What is this?", "image_id": "003a", "question_id": 34602,
           "answers": ["nokia"] * 9 + ["phone"], "set_name": "val"}  # fmt: skip
    section = {
        "kind": "textvqa",
        "questions": write.json("val.json", {"dataset_type": "val", "data": [row]}),
        "images": str(write.root / "train_images"),
    }
    tokens = {"data": [{"image_id": "003a", "ocr_tokens": ["A", "B"], "ocr_info": []}]}
    recorded = json.loads(golden("scorers/textvqa_prompts.json").read_text())
    assert prompts(section) == [recorded[0]["prompt"]]
    with_tokens = section | {"ocr": write.json("ocr.json", tokens)}
    assert prompts(with_tokens) == [recorded[1]["prompt"]]
    assert table(section, ["Nokia"])["all"]["accuracy"].value == 1
    assert table(section, ["phone"])["all"]["accuracy"].value == pytest.approx(0.3)


def test_seed_bench_skips_videos_without_frames(seed, write):
    data = build_benchmark(seed).read()
    assert list(data.skipped.values()) == [1]
    options = "\nA. One\nB. Two\nC. Three\nD. Four"
    assert prompts(seed) == [f"How many towels?{options}{LETTER}"]
    assert set(table(seed, ["A"])) == {"all", "image", "Instances Counting"}
    rows = table(seed | {"video_frames": str(write.root / "frames")}, ["A", "b"])
    assert rows["all"]["accuracy"].value == 0.5
    assert rows["video"]["accuracy"].value == rows["Action Recognition"]["accuracy"].value == 0


def test_scienceqa_asks_about_texts_too(scienceqa):
    first, second = prompts(scienceqa)
    assert first == (
        f"Context: N/A\nQuestion: Which figure?\nOptions: (A) chiasmus (B) apostrophe{LETTER}"
    )
    assert second.startswith("Context: Look.\nQuestion: Which one?\nOptions: (A) a (B) b (C) c\n")
    rows = table(scienceqa, ["The answer is B.", "D"])
    assert [rows[name]["accuracy"].value for name in rows] == [0.5, 0, 1]
    only = scienceqa | {"has_only_images": True}
    assert build_benchmark(only).read().skipped == {"a question without an image": 1}


def test_mmbench_counts_a_question_once_for_all_of_its_orders(mmbench):
    assert prompts(mmbench)[0] == f"Look.\nWhich?\nA. red\nB. blue{LETTER}"
    assert prompts(mmbench)[2] == f"What?\nA. one\nB. two{LETTER}"  # up to the first "None"
    cn = prompts(mmbench | {"language": "cn"})
    assert cn[2].endswith("\nB. two\n请直接回答选项字母。")
    rows = table(mmbench, ["B", "B", "one"])
    assert rows["all"]["single"].value == 1
    assert rows["all"]["circular"].value == 0.5
    assert rows["category: ocr"]["circular"].value == 0
    assert rows["category: count"]["single"].value == 1
    assert rows["level: fine"]["questions"] == 2


def test_mmbench_takes_the_form_that_is_named(mmbench):
    benchmark = build_benchmark(mmbench | {"form": "before_last_five"})
    assert "'before_last_five'" in benchmark.rule
    rows = table(mmbench | {"form": "before_last_five"}, ["B", "A", "one"])
    assert rows["all"]["single"].value == 0.5  # a bare letter is not read
    assert rows["all"]["unmatched"] == 2


def test_mmmu_scores_options_and_open_questions(mmmu):
    first, second = prompts(mmmu)
    assert first == f"Who made <image 1>?\n(A) Klee\n(B) Dix\n{LETTER}"
    assert second == f"How many?{SHORT}"
    rows = table(mmmu, ["(B)", "There are 3."])
    assert rows["all"]["accuracy"].value == rows["Art"]["accuracy"].value == 1
    assert rows["all"]["several_images"] == 1
    assert rows["Art and Design, all"]["questions"] == 2


def test_mmmu_draws_a_choice_or_counts_none(mmmu):
    import random

    drawn = random.Random(42).choice(["A", "B"])
    rows = table(mmmu, ["who knows", "4"])
    assert rows["all"]["accuracy"].value == (0.5 if drawn == "B" else 0)
    rows = table(mmmu | {"fallback": "wrong"}, ["who knows", "4"])
    assert rows["all"]["accuracy"].value == 0


def test_the_protocol_stands_beside_the_figures(mmbench, seed):
    for section in (mmbench, seed):
        benchmark = build_benchmark(section)
        data = benchmark.read()
        result = score(benchmark, data, {q.key: "A" for q in data.questions}, model={"name": "x"})
        protocol = result.to_plain()["protocol"]
        assert protocol["benchmark"] == section["kind"]
        assert protocol["num_questions"] == len(data.questions)
        assert {"split", "prompt", "rule", "skipped", "model"} <= set(protocol)
        assert json.loads(json.dumps(result.to_plain())) == result.to_plain()
        assert all(str(protocol[name]) in str(result) for name in ("rule", "prompt", "split"))
