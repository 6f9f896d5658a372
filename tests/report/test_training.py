"""Which curves of a training are drawn, and in which order."""

import re

from toklip_jax.report.files import Run
from toklip_jax.report.markup import tag
from toklip_jax.report.training import MAX_EVALUATED, seconds_trained, training_section


def titles(text):
    """Stage by stage, the titles of its charts."""
    stages = re.split("<h3>", text)[1:]
    return {stage.partition(" ")[0]: re.findall("<b>(.*?)</b>", stage) for stage in stages}


def test_toklip_s_retrieval_comes_first_then_losses_then_the_optimizer(report):
    found = titles(report.text.partition('id="training"')[2].partition("</section>")[0])
    assert list(found) == ["TokLIP", "VQ"]  # the last stage first
    assert found["TokLIP"][:2] == ["Classes: image→text R@1", "Classes: top-1"]
    assert len(found["TokLIP"]) == MAX_EVALUATED + 3
    # An equal curve, and counts that stay zero, aren't drawn.
    assert found["VQ"] == found["TokLIP"][MAX_EVALUATED:] == ["Loss", "Grad norm", "Learning rate"]


def test_the_models_of_a_figure_share_a_chart_with_toklip_in_front(tmp_path):
    records = [
        {"step": step, "names/teacher/top1": 0.5, "names/TokLIP/top1": step / 10}
        for step in (1, 2, 3)
    ]
    body = tag("div", training_section(Run(tmp_path, {}, {}, {"toklip": records})).body)
    assert titles(body) == {"TokLIP": ["Names: top-1"]}
    assert re.findall('<i class="look-(.)"></i>(.*?)</span>', body) == [
        ("0", "TokLIP"),
        ("1", "teacher"),
    ]
    assert "last TokLIP 0.3, teacher 0.5" in body


def test_counts_are_drawn_once_something_was_counted(tmp_path):
    records = [{"step": step, "loss": 1.0 / step, "bad_samples": step - 1} for step in (1, 2)]
    body = tag("div", training_section(Run(tmp_path, {}, {}, {"vq": records})).body)
    assert titles(body) == {"VQ": ["Loss", "Bad samples"]}


def test_time_is_that_of_the_steps_not_of_the_breaks_between():
    speeds = [(10, 2.0), (20, 3.0), (20, 3.0), (25, None), (35, 1.0)]
    records = [{"step": s, "speed": {"seconds_per_step": each}} for s, each in speeds]
    assert seconds_trained(records) == 20 + 30 + 10
    assert seconds_trained([{"step": 10**400, "speed": 5}, {"step": 5}]) == 0
