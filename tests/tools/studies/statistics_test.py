"""Statistics of paired runs, against numbers by hand."""

import pytest

from tools.studies import statistics


def test_mean_and_deviation_by_hand():
    # Deviations -2, 0, 2 from the mean 3: (4 + 0 + 4) / 2 = 4.
    assert statistics.mean_sd([1, 3, 5]) == (3.0, 2.0)
    assert statistics.spread([0.9, 0.7]) == {"mean": 0.8, "sd": 0.1414}
    assert statistics.spread([0.5]) == {"mean": 0.5, "sd": 0.0}


def test_paired_runs_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1. Student's t has 4.3027 at 97.5 % with two degrees of
    # freedom: 2 -+ 4.3027 / sqrt(3). Of the 8 assignments of signs, +++ and --- are as far from 0.
    assert statistics.paired([2, 4, 6], [1, 2, 3]) == {
        "mean": 2.0, "sd": 1.0, "wins": 3, "interval": [-0.4841, 4.4841],
        "p_value": 0.25, "smallest_p_value": 0.25,
    }  # fmt: skip


def test_signs_are_flipped_exactly():
    # Sums of +-1 +-2 +-3 +-4 (10, here 8 with -1) of absolute value 8 or more: 10, 8 and negatives.
    assert statistics.p_value([-1, 2, 3, 4]) == 4 / 16
    assert statistics.p_value([1, 1, 1, 1, 1, 1]) == 2 / 64
    assert statistics.p_value([0, 0, 0]) == 1.0


def test_smaller_may_be_better():
    assert statistics.paired([0.1, 0.3, 0.2], [0.2, 0.2, 0.2])["wins"] == 1
    wins = statistics.paired([0.1, 0.3, 0.1], [0.2, 0.2, 0.2], smaller_is_better=True)["wins"]
    assert wins == 2
    runs = [{"auc": 0.9, "far": 0.1}], [{"auc": 0.8, "far": 0.2}]
    compared = statistics.paired_measures(*runs, ("auc", "far"))
    assert compared["auc"]["wins"] == compared["far"]["wins"] == 1


def test_one_pair_has_no_interval_and_says_nothing():
    assert statistics.paired([0.9], [0.1]) == {
        "mean": 0.8, "sd": 0.0, "wins": 1, "interval": None,
        "p_value": 1.0, "smallest_p_value": 1.0,
    }  # fmt: skip


def test_equal_runs_do_not_differ():
    same = statistics.paired([0.5, 0.6], [0.5, 0.6])
    assert same["interval"] == [0.0, 0.0] and same["p_value"] == 1.0 and same["wins"] == 0


def test_many_pairs_are_resampled_the_same_each_time():
    after, before = [0.1 * i for i in range(20)], [0.0] * 20
    one, two = (statistics.paired(after, before) for _ in range(2))
    assert one == two and one["smallest_p_value"] == pytest.approx(2 / 10_000)


def test_sides_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        statistics.paired([1.0, 2.0], [1.0])


def test_a_brief_result_has_no_certainty():
    difference = statistics.paired([0.5, 0.75], [0.25, 0.5])
    assert statistics.brief({"auc": difference}) == {"auc": {"mean": 0.25, "sd": 0.0, "wins": 2}}


def test_one_side_is_half_of_the_signs():
    # Of the 16 sums of +-1 +-2 +-3 +-4, 10 and 8 are at least 8; all but -10 are at least -8.
    assert statistics.p_value([-1, 2, 3, 4], "greater") == 2 / 16
    assert statistics.p_value([-1, 2, 3, 4], "less") == 15 / 16


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 is raised to 0.06.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([0.2]) == [0.2] and statistics.holm([]) == []
