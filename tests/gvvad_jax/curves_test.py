"""Points of curves against scikit-learn, and measures by class and by video by hand."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from gvvad_jax import calibration, curves


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=40).filter(
        lambda frames: len({label for _, label in frames}) == 2
    )
)
def test_curves_are_scikit_learns(frames):
    scores, labels = np.array(frames, float).T
    for found, expected in zip(
        curves.roc(scores, labels),
        sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    recall, precision, thresholds = curves.precision_recall(scores, labels)
    expected = sklearn_metrics.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(precision, expected[0][::-1], atol=1e-12)
    np.testing.assert_allclose(recall, expected[1][::-1], atol=1e-12)
    np.testing.assert_allclose(thresholds[1:], expected[2][::-1])


def test_curves_of_one_label_are_none():
    assert curves.roc([0.1, 0.2], [1, 1]) is None and curves.precision_recall([0.1], [0]) is None


def test_a_thin_curve_keeps_its_shape():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000)
    whole = curves.roc(rng.random(5000) + 0.5 * labels, labels)
    thin = curves.thin(whole, 200)
    assert 150 < len(thin.x_K) <= 200
    assert (thin.x_K[0], thin.y_K[0], thin.x_K[-1], thin.y_K[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(thin.y_K, thin.x_K) == pytest.approx(
        np.trapezoid(whole.y_K, whole.x_K), abs=2e-3
    )
    assert curves.thin(thin, 200) is thin


def test_calibration_bins_by_hand():
    chances, labels = [0.1, 0.19, 0.95, 1.0], [0, 1, 1, 1]
    bins = curves.calibration_bins(chances, labels)
    assert len(bins) == 10 and bins[0] == (0.0, 0.1, 0, None, None)
    assert bins[1] == (0.1, 0.2, 2, pytest.approx(0.145), 0.5)
    assert bins[9] == (0.9, 1.0, 2, pytest.approx(0.975), 1.0)
    error = sum(b.videos * abs(b.mean - b.abnormal) for b in bins if b.videos) / 4
    assert calibration.expected_error(chances, labels) == pytest.approx(error)
    with pytest.raises(ValueError, match="^chances_V: "):
        curves.calibration_bins([1.1], [1])


def test_classes_and_videos_by_hand():
    labels = {"a": np.array([0, 1]), "b": np.array([1, 0]), "n": np.array([0, 0])}
    scores = {"a": np.array([0.1, 0.9]), "b": np.array([0.3, 0.4]), "n": np.array([0.2, 0.6])}
    classes = {"a": "Arson", "b": "Abuse", "n": None}
    # Abuse: 0.3 against 0.4, 0.2, 0.6; Arson: 0.9 against 0.1, 0.2, 0.6.
    assert curves.per_class(scores, labels, classes) == {
        "Abuse": {"videos": 1, "frames": 2, "abnormal_frames": 1, "auc": pytest.approx(1 / 3),
                  "ap": pytest.approx(1 / 3), "auc_abnormal": 0.0},
        "Arson": {"videos": 1, "frames": 2, "abnormal_frames": 1, "auc": 1.0, "ap": 1.0,
                  "auc_abnormal": 1.0},
    }  # fmt: skip
    videos = curves.per_video(scores, labels, classes, threshold=0.35)
    assert videos["b"] == {
        "label": 1, "class": "Abuse", "frames": 2, "abnormal_frames": 1, "auc": 0.0, "ap": 0.5,
        "far": 1.0, "recall": 0.0, "max": 0.4, "mean": pytest.approx(0.35), "mean_abnormal": 0.3,
        "mean_normal": 0.4,
    }  # fmt: skip
    assert (videos["n"]["label"], videos["n"]["auc"], videos["n"]["far"]) == (0, None, 0.5)
    assert videos["n"]["recall"] is videos["n"]["mean_abnormal"] is None


def test_a_thin_score_curve_keeps_its_peaks():
    scores = np.zeros(10_000)
    scores[4321], scores[77] = 1.0, -1.0
    frames, values = curves.score_curve(scores, 100)
    assert len(frames) <= 102 and {77, 4321} <= set(frames.tolist())
    np.testing.assert_array_equal(values, scores[frames])
    assert curves.spans([1, 0, 0, 1, 1]) == [(0, 1), (3, 5)] and curves.spans([0]) == []
