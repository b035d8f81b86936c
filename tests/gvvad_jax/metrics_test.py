"""Measures, by hand and against scikit-learn."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from gvvad_jax import metrics


def test_auc_by_hand():
    # Pairs (positive, negative): 0.9>0.5, 0.9>0.1, 0.4<0.5, 0.4>0.1: three of four.
    assert metrics.roc_auc([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]) == 0.75
    # A tie counts half.
    assert metrics.roc_auc([0.5, 0.5], [1, 0]) == 0.5


def test_average_precision_by_hand():
    # Ranked 1, 0, 1: precision 1 at recall 1/2, 2/3 at recall 1.
    assert metrics.average_precision([3, 2, 1], [1, 0, 1]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    # Trapezoids: from (0, 1) to (.5, 1), (.5, .5), (1, 2/3).
    assert metrics.pr_auc([3, 2, 1], [1, 0, 1]) == pytest.approx(0.5 + 0.5 * (0.5 + 2 / 3) / 2)


_FRAMES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=2, max_size=80).filter(
    lambda frames: len({label for _, label in frames}) == 2
)


@hypothesis.settings(deadline=None)
@hypothesis.given(_FRAMES)
def test_equals_scikit_learn_with_ties(frames):
    scores, labels = np.array(frames, float).T
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    for value, expected in (
        (metrics.roc_auc(scores, labels), sklearn_metrics.roc_auc_score(labels, scores)),
        (
            metrics.average_precision(scores, labels),
            sklearn_metrics.average_precision_score(labels, scores),
        ),
        (metrics.pr_auc(scores, labels), sklearn_metrics.auc(recall, precision)),
    ):
        assert value == pytest.approx(expected, abs=1e-9)


def test_equals_scikit_learn_on_many_frames():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50_000)
    scores = rng.random(50_000) + 0.3 * labels
    expected = sklearn_metrics.roc_auc_score(labels, scores)
    assert metrics.roc_auc(scores, labels) == pytest.approx(expected, abs=1e-9)
    expected = sklearn_metrics.average_precision_score(labels, scores)
    assert metrics.average_precision(scores, labels) == pytest.approx(expected, abs=1e-9)


def test_the_equal_error_rate_by_hand():
    # One of four normal frames and one of four abnormal ones are on the wrong side of 0.5.
    scores, labels = [0.9, 0.8, 0.7, 0.2, 0.6, 0.3, 0.1, 0.0], [1, 1, 1, 1, 0, 0, 0, 0]
    assert metrics.equal_error_rate(metrics.find_runs(scores, labels)) == (0.25, 0.6)
    # From (0, 1/2) to (1, 1) the curve crosses where x = (1 - x) / 2.
    runs = metrics.find_runs([1, 0, 0], [1, 1, 0])
    assert metrics.equal_error_rate(runs) == (pytest.approx(1 / 3), 1.0)
    assert metrics.equal_error_rate(metrics.find_runs([1, 0], [1, 0])) == (0.0, 1.0)
    # All tie: half of each, whatever the threshold.
    assert metrics.equal_error_rate(metrics.find_runs([1, 1], [1, 0])) == (0.5, 1.0)
    assert metrics.equal_error_rate(metrics.find_runs([1, 1], [1, 1])) is None


@hypothesis.settings(deadline=None)
@hypothesis.given(_FRAMES, st.floats(0, 1))
def test_the_threshold_for_a_false_alarm_rate_is_the_lowest(frames, wanted):
    scores, labels = np.array(frames, float).T
    runs = metrics.find_runs(scores, labels)
    threshold = metrics.threshold_for_far(runs, wanted)
    assert metrics.false_alarm_rate(scores, labels, threshold) <= wanted + 1e-9
    lower = [score for score in scores if score < threshold]
    assert all(metrics.false_alarm_rate(scores, labels, score) > wanted for score in lower)


def test_the_threshold_for_a_false_alarm_rate_by_hand():
    runs = metrics.find_runs([0.9, 0.8, 0.6, 0.4, 0.2], [1, 0, 0, 0, 0])
    # Above 0.6 is one of four normal frames; above 0.4 two.
    assert metrics.threshold_for_far(runs, 0.25) == 0.6
    assert metrics.threshold_for_far(runs, 0.0) == 0.8 and metrics.threshold_for_far(runs, 1) == 0.2
    assert metrics.threshold_for_far(metrics.find_runs([1.0], [1]), 0.1) is None
    with pytest.raises(ValueError, match="^wanted: "):
        metrics.threshold_for_far(runs, 1.1)


def test_undefined_measures_are_none():
    assert metrics.roc_auc([1.0, 2.0], [0, 0]) is None
    assert metrics.average_precision([1.0], [0]) is None
    assert metrics.false_alarm_rate([1.0], [1]) is None


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="^scores_F: .* found NaN"):
        metrics.roc_auc([0.9, np.nan], [1, 0])
    with pytest.raises(ValueError, match=r"^scores_F, labels_F: .* \[2\] and \[3\]"):
        metrics.pr_auc([0.9, 0.1], [1, 0, 0])
    with pytest.raises(ValueError, match="^labels_F: expected labels 0 and 1"):
        metrics.false_alarm_rate([0.9, 0.1], [1, 2])
    with pytest.raises(ValueError, match="^labels: .* found none of 'b'"):
        metrics.frame_measures({"b": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="^top_k: "):
        metrics.video_score(np.zeros(2), 0)
    with pytest.raises(ValueError, match="^scores_T: "):
        metrics.video_score(np.zeros(0), 3)


def test_false_alarms_are_normal_frames_above_half():
    assert metrics.false_alarm_rate([0.6, 0.5, 0.9, 0.2], [0, 0, 1, 0]) == pytest.approx(1 / 3)
    assert metrics.false_alarm_rate([0.6, 0.5, 0.9, 0.2], [0, 0, 1, 0], 0.4) == pytest.approx(2 / 3)


def test_frame_measures_by_hand():
    labels = {"a": np.array([0, 1]), "b": np.array([1, 0]), "n": np.array([0, 0])}
    scores = {"a": np.array([0.1, 0.9]), "b": np.array([0.3, 0.4]), "n": np.array([0.2, 0.6])}
    measures = metrics.frame_measures(scores, labels, {"a": "Arson", "b": "Abuse", "n": None})
    # Positives 0.9, 0.3; negatives 0.1, 0.4, 0.2, 0.6: 4 + 2 of 8 pairs.
    assert measures["auc"] == pytest.approx(6 / 8)
    # Within abnormal videos the negatives are 0.1 and 0.4: 2 + 1 of 4.
    assert measures["auc_abnormal"] == pytest.approx(3 / 4)
    assert measures["per_class"] == {"Abuse": pytest.approx(1 / 3), "Arson": pytest.approx(1.0)}
    assert measures["far"] == pytest.approx(1 / 4)


def test_a_video_shorter_than_k_is_its_mean():
    assert metrics.video_score(np.array([0.2, 0.4]), 3) == pytest.approx(0.3)
    assert metrics.video_score(np.array([0.2, 0.9, 0.4, 0.6]), 2) == pytest.approx(0.75)


def test_frames_of_one_score_count_as_one_run():
    scores, labels = np.array([0.2, 0.2, 0.2, 0.9, 0.2, 0.2]), np.array([0, 1, 0, 1, 0, 0])
    runs = metrics.find_runs(scores, labels)
    np.testing.assert_array_equal(runs.scores_R, [0.2, 0.9, 0.2])
    np.testing.assert_array_equal(runs.positives_R, [1, 1, 0])
    np.testing.assert_array_equal(runs.frames_R, [3, 1, 2])
    # Two positive, four negative frames: one pair tied four times, one above all.
    assert metrics.roc_auc(scores, labels) == pytest.approx((4 + 4 * 0.5) / 8)
