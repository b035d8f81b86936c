"""Axes and coordinates of plots."""

import math

import pytest

from tools.pages import report_plots
from tools.pages.report_plots import Line, plot


@pytest.mark.parametrize(
    ("length", "most", "step"), [(1.0, 5, 0.2), (300, 6, 50), (7, 5, 2), (0.03, 5, 0.01)]
)
def test_steps_of_ticks_are_round(length, most, step):
    assert report_plots.round_step(length, most) == pytest.approx(step)


def test_a_linear_axis_has_round_ticks_inside_it():
    axis = report_plots.axis_of([0.0, 300.0], 54, 458, 0.0, 300.0)
    assert axis.ticks(6) == [
        ("0", "54.0"), ("50", "121.3"), ("100", "188.7"), ("150", "256.0"), ("200", "323.3"),
        ("250", "390.7"), ("300", "458.0"),
    ]  # fmt: skip
    # What isn't negative doesn't get an axis that is; a single value has room around it.
    assert report_plots.axis_of([0.0, 1.0], 0, 1).low == 0
    assert (lambda a: (a.low, a.high))(report_plots.axis_of([2.0, 2.0], 0, 1)) == (1.98, 2.02)
    assert (lambda a: (a.low, a.high))(report_plots.axis_of([0.0], 0, 1)) == (-1, 1)


def test_what_spreads_far_is_drawn_by_its_logarithm():
    axis = report_plots.axis_of([2.0, 0.5, 3e-5], 100, 0)
    assert axis.logarithmic and axis.low == pytest.approx(1e-5) and axis.high == 10
    assert [label for label, _ in axis.ticks(5)] == ["1e-05", "0.001", "0.1", "10"]
    assert axis(0.01) == pytest.approx(50)
    # A 0 lies at the bottom, and the plot says so; without a value above 0 the axis is linear.
    drawn = plot("t", [Line(0, [(0, 0.0), (1, 0.0), (2, 2e-3)])], x_label="step")
    assert drawn["note"] == "logarithmic; what lies below is drawn at the bottom"
    assert drawn["lines"][0]["points"] == "54.0,210.0 256.0,210.0 458.0,149.8"
    assert not report_plots.axis_of([0.0, 0.0], 0, 1).logarithmic


def test_a_plot_has_its_lines_spans_and_gaps_left_out():
    lines = [Line(1, [(0, 0.0), (5, math.nan), (10, 1.0)]), Line(2, [(10, 0.5)]), Line(3, [])]
    drawn = plot("t", lines, x_label="s", x_range=(0, 10), y_range=(0, 1), spans=[(2.5, 5)])
    assert [line["run"] for line in drawn["lines"]] == [1, 2]
    assert drawn["lines"][0]["points"] == "54.0,210.0 458.0,10.0"
    assert drawn["lines"][0]["dots"] == [] and drawn["lines"][1]["dots"] == [("458.0", "110.0")]
    assert drawn["spans"] == [("155.0", "101.0")] and drawn["note"] == ""


def test_thinning_keeps_ends_and_peaks():
    places = [(i / 100, 0.0) for i in range(1000)]
    places[537] = (5.37, 9.0)
    kept = report_plots.thin(places)
    assert len(kept) <= 40 and kept[0] == places[0] and kept[-1] == places[-1]
    assert (5.37, 9.0) in kept
    assert report_plots.thin([(0.0, 1.0), (2.0, 3.0)]) == [(0.0, 1.0), (2.0, 3.0)]
