"""The table of means and standard errors over seeds."""

from benchmarks.seeds import by_variant, mean_table


def test_runs_are_put_together_by_their_variant():
    found = {"best_of_8_0": {"a": 1.0}, "none_0": {"a": 2.0}, "best_of_8_1": {"a": 3.0}}
    assert by_variant(found) == {"best_of_8": [{"a": 1.0}, {"a": 3.0}], "none": [{"a": 2.0}]}


def test_means_have_standard_errors_and_missing_figures_are_empty():
    runs = {"x": [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}], "y": [{"b": 0.5}]}
    lines = mean_table("name", runs, {"A": "a", "B": "b"}).splitlines()
    assert lines[0] == "| name | runs | A | B |"
    assert lines[2] == "| x | 2 | 2.000 ± 1.000 | 2.000 ± 0.000 |"
    assert lines[3] == "| y | 1 |  | 0.500 |"
