"""The rules that score answers give what the published scripts gave, on all recordings."""

import functools
import json
import math
import operator

import pytest

from toklip_jax.core.errors import UserError
from toklip_jax.metrics.answers import (
    MMECounts,
    POPECounts,
    anls,
    evalai_normalised,
    gqa_answer,
    is_open_answer_right,
    is_same_letter,
    matched_option,
    mme_answer,
    mmmu_letter,
    pope_answer,
    scienceqa_letter,
    vqa_accuracy,
)

OPTIONS = {"A": "a blue cat", "B": "two birds"}
RECORDED_FORMS = {
    "no_position": "no_position",
    "last_five": "last_five",
    "before_last_five": "stored_134b4ea",
}


@pytest.fixture(scope="module")
def recorded(golden):
    """`recorded("pope")` is what the script of that rule gave."""
    return lambda name: json.loads(golden(f"scorers/{name}.json").read_text())


def test_pope_equals_the_recorded_figures(recorded):
    checked = 0
    for case in recorded("pope"):
        answers, result = case["answers"], case["result"]
        if len(answers) != len(case["labels"]):
            continue
        counts = POPECounts.from_answers(answers, case["labels"])
        figures = counts.compute()
        if "error" in result:
            assert math.isnan(figures["f1"])  # the script divides by zero
            continue
        assert [pope_answer(text) for text in answers] == result["predictions"]
        names = {"TP": "true_positives", "FP": "false_positives"}
        names |= {"TN": "true_negatives", "FN": "false_negatives"}
        assert {short: getattr(counts, name) for short, name in names.items()} == {
            short: result[short] for short in names
        }
        assert figures == {name: pytest.approx(result[name], abs=1e-15) for name in figures}
        checked += 1
    assert checked == 3


def test_mme_equals_the_recorded_figures(recorded):
    record = recorded("mme")
    for case in record["parse"]:
        assert mme_answer(case["pred"]) == case["parsed"], case
    scores = []
    for task, rows in record["inputs"].items():
        want = record["outputs"]["tasks"][task]
        columns = ([row[name] for row in rows] for name in ("pred", "gt", "image"))
        counts = MMECounts.from_answers(*columns)
        figures = counts.compute()
        assert (figures["accuracy"], figures["accuracy_plus"]) == (want["acc"], want["acc_plus"])
        assert (figures["precision"], figures["recall"]) == (want["precision"], want["recall"])
        assert figures["score"] == want["score"]
        assert counts.others == want["other_num"]
        scores.append(figures["score"])
    totals = record["outputs"]["totals"]
    assert functools.reduce(operator.add, scores[:10]) == totals["Perception"]
    assert functools.reduce(operator.add, scores[10:]) == totals["Cognition"]


def test_counts_of_parts_add_up(recorded):
    case = recorded("pope")[0]
    answers, labels = case["answers"], case["labels"]
    parts = [POPECounts.from_answers(answers[i::3], labels[i::3]) for i in range(3)]
    whole = functools.reduce(lambda a, b: a.merge(b), parts, POPECounts.empty())
    assert whole == POPECounts.from_answers(answers, labels)


def test_gqa_equals_the_recorded_answers(recorded):
    for case in recorded("gqa")["cases"]:
        assert gqa_answer(case["text"]) == case["prediction"]
        assert (gqa_answer(case["text"]) == case["gold"]) == case["correct"]


def test_normalised_answers_equal_the_recorded_ones(recorded):
    cases = recorded("vqa")["processor"]
    assert len(cases) == 120
    for case in cases:
        text, processed = case.values()
        assert evalai_normalised(text) == processed, text


def test_vqa_accuracies_equal_the_recorded_ones(recorded):
    record = recorded("vqa")
    scores = [vqa_accuracy(case["pred_answer"], case["gt_answers"]) for case in record["textvqa"]]
    assert scores == [case["score"] for case in record["textvqa"]]
    for case in record["textvqa"]:
        for answer, score in case["answer_scores"].items():
            assert vqa_accuracy(answer, case["gt_answers"]) == score
    mean = functools.reduce(operator.add, scores) / len(scores)
    assert mean == pytest.approx(record["textvqa_accuracy"], abs=1e-15)


def test_anls_equals_the_recorded_similarities(recorded):
    for case in recorded("vqa")["anls"]:
        assert anls(case["a"], case["b"]) == case["anls"], case
    assert anls("", "") == 1.0


def test_scienceqa_equals_the_recorded_letters(recorded):
    record = recorded("scienceqa")
    right = 0
    for case in record["cases"]:
        letter = scienceqa_letter(case["text"], case["n_choices"])
        assert (-1 if letter is None else "ABCDE".index(letter)) == case["pred_index"], case
        assert (letter == "ABCDE"[case["answer_index"]]) == case["correct"]
        right += case["correct"]
    assert right == record["correct"]


def test_seed_counts_what_the_script_counts(recorded):
    record = recorded("seed")
    answers = {str(row["question_id"]): row["text"] for row in record["results"]}
    questions = record["annotation"]["questions"]
    right = [is_same_letter(answers.get(q["question_id"], ""), q["answer"]) for q in questions]
    assert f"Total accuracy: {sum(right) / len(right):.2%}" in record["printed"]


@pytest.mark.parametrize("form", RECORDED_FORMS)
def test_options_equal_the_recorded_ones(recorded, form):
    record = recorded("option_matching")
    column = RECORDED_FORMS[form]
    found = 0
    for case in record["cases"]:
        for name, by_text in ((column, True), (f"{column}_option_only", False)):
            got = matched_option(case["text"], record["choices"], form, by_text=by_text)
            assert (got or False) == case[name], (case["text"], name)
            found += got is not None
    assert found > 10


def test_mmmu_equals_the_recorded_letters_and_comparisons(recorded):
    record = recorded("mmmu")
    for case in record["choice"]:
        assert mmmu_letter(case["text"], record["options"]) == case["letter"], case
    for case in record["open"]:
        assert is_open_answer_right(case["text"], case["reference"]) == case["correct"], case


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B one two three", {"no_position": "B", "last_five": "B"}),
        ("B one two three four", {"no_position": "B"}),
        ("B one two three four five", {"no_position": "B", "before_last_five": "B"}),
    ],
)
def test_forms_differ_by_the_words_that_follow_the_letter(text, letters):
    options = {"A": "red", "B": "blue"}
    found = {form: matched_option(text, options, form) for form in RECORDED_FORMS}
    assert {form: letter for form, letter in found.items() if letter} == letters


def test_a_text_much_longer_than_the_options_is_not_searched_for_theirs():
    options = {"A": "red", "B": "blue"}
    assert matched_option("it is reddish.", options) == "A"  # 14 letters, twice those of both
    assert matched_option("it is reddish..", options) is None


def test_mmmu_at_the_edges_of_its_conditions():
    assert mmmu_letter("it is a blue cat", OPTIONS) is None  # five words
    assert mmmu_letter("it is a blue cat here", OPTIONS) == "A"
    # "is ", of the first line, leaves nothing, and "answer " then leaves "is".
    assert not is_open_answer_right("so the answer is \n7", "7")


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="as many answers as labels, got 2 and 1"):
        POPECounts.from_answers(["yes", "no"], ["yes"])
    with pytest.raises(UserError, match="got 'maybe'"):
        MMECounts.from_answers(["yes"], ["maybe"], ["0.jpg"])
    with pytest.raises(UserError, match="answers of 10 people, got 9"):
        vqa_accuracy("2", ["2"] * 9)
    with pytest.raises(UserError, match="did you mean 'last_five'"):
        matched_option("B", OPTIONS, "last_fiv")
    with pytest.raises(UserError, match="expected options"):
        matched_option("B", {})


def test_shares_of_nothing_are_nan():
    assert math.isnan(POPECounts.empty().compute()["accuracy"])
    assert math.isnan(MMECounts.empty().compute()["score"])
