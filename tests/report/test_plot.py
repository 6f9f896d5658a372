"""Axes, their labels, and where lines are drawn."""

import re

import pytest

from toklip_jax.report.plot import Line, axis, count_axis, log_axis, plot, thinned, tick_text


@pytest.mark.parametrize(
    ("values", "ends", "texts"),
    [
        ([0.34, 0.42], (0.34, 0.42), ["0.34", "0.36", "0.38", "0.40", "0.42"]),
        ([0.0, 0.0047], (0, 0.006), ["0.000", "0.002", "0.004", "0.006"]),
        ([-3, 7], (-5, 10), ["-5", "0", "5", "10"]),
        ([5, 5], (2, 8), ["2", "4", "6", "8"]),
        ([0, 0], (-1, 1), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
    ],
)
def test_axes_end_at_round_ticks_that_hold_the_values(values, ends, texts):
    found = axis(values)
    assert (found.low, found.high) == pytest.approx(ends)
    step = found.ticks[1] - found.ticks[0]
    assert [tick_text(tick, step) for tick in found.ticks] == texts


def test_counts_start_at_zero_and_end_where_they_end():
    found = count_axis(820)
    assert (found.low, found.high, found.ticks) == (0, 820, [0, 500])
    assert count_axis(0).high == 1


def test_logarithmic_axes_have_whole_powers():
    found = log_axis([3e-5, 0.4])
    assert (found.low, found.high) == pytest.approx((1e-5, 1))
    assert [tick_text(tick) for tick in found.ticks] == ["1e-5", "0.001", "0.1"]
    assert found.place(1e-5) == 0
    assert found.place(1) == 100
    assert [tick_text(tick) for tick in log_axis([1, 900]).ticks] == ["1", "10", "100", "1,000"]
    assert [tick_text(tick) for tick in (20_000.0, 3e6)] == ["20k", "3M"]


def test_lines_are_drawn_at_their_places_with_their_errors():
    line = Line("a <b>", [0, 5, 10], [0.0, 1.0, 4.0], errors=[0.0, 1.0, 0.0], is_marked=True)
    figure = plot([line], title="t", alt="what it shows", x_label="step", x=count_axis(10))
    paths = re.findall('<path d="([^"]*)" class="line look-0(.*?)"', figure)
    assert paths == [
        ("M0 100L50 75L100 0", ""),
        ("M0 100V100M50 100V50M100 0V0", " bars"),
        ("M0 100h0M50 75h0M100 0h0", " marks"),
    ]
    assert "a &lt;b&gt;" in figure
    assert 'aria-label="what it shows"' in figure
    assert re.findall('<span style="left:(.*?)%"', figure) == ["0", "50", "100"]


def test_values_that_span_much_are_logarithmic_unless_one_is_not_positive():
    def grid(values):
        line = Line("", list(range(len(values))), values)
        figure = plot([line], title="", alt="x", x_label="x", x=count_axis(len(values)))
        return re.findall('<span style="bottom:.*?>(.*?)</span>', figure)

    assert grid([0.1, 10.0]) == ["0.1", "1", "10"]
    assert grid([0.0, 10.0]) == ["0", "5", "10"]


def test_long_lines_are_thinned_and_keep_their_ends():
    assert thinned(1000, 4).tolist() == [0, 333, 666, 999]
    assert thinned(3, 200).tolist() == [0, 1, 2]
