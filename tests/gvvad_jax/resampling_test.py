"""Intervals and comparisons: draws against measuring the drawn videos anew, and coverage."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from gvvad_jax import metrics, resampling


def _sample(scores, labels, by_class=None, video_scores=None):
    runs = {i: metrics.find_runs(scores[i], labels[i]) for i in scores}
    abnormal = [i for i in scores if np.any(labels[i])]
    return resampling.Sample(runs, abnormal, by_class or {}, 0.5, video_scores)


def _videos(rng, count, levels=6, effect=0.3):
    labels = {f"v{v}": (rng.random(rng.integers(1, 20)) < 0.4 * (v % 2)).astype(int)
              for v in range(count)}  # fmt: skip
    scores = {i: np.round((rng.random(len(y)) + effect * y) * levels) / levels
              for i, y in labels.items()}  # fmt: skip
    return scores, labels


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(st.integers(0, 10**6), st.integers(2, 8), st.sampled_from([2, 6, 1000]))
def test_a_draw_is_what_its_videos_measure(seed, count, levels):
    rng = np.random.default_rng(seed)
    scores, labels = _videos(rng, count, levels)
    ids = list(scores)
    abnormal = [i for i in ids if labels[i].any()]
    sample = _sample(scores, labels, {"Arson": abnormal[:1]}, {i: scores[i].max() for i in ids})
    weights_BxV = resampling.draw(ids, 4, seed)
    drawn = sample.measures(weights_BxV)
    for b, weights_V in enumerate(weights_BxV.astype(int)):
        # The videos of the draw, each as often as it was drawn.
        names = [(i, n) for i, w in zip(ids, weights_V, strict=True) for n in range(w)]
        expected = metrics.frame_measures(
            {k: scores[k[0]] for k in names},
            {k: labels[k[0]] for k in names},
            {k: "Arson" for k in names if k[0] in abnormal[:1]},
        )
        video_labels = [int(labels[i].any()) for i, _ in names]
        video_scores = [scores[i].max() for i, _ in names]
        expected["video_auc"] = metrics.roc_auc(video_scores, video_labels)
        expected["video_ap"] = metrics.average_precision(video_scores, video_labels)
        for name in ("auc", "ap", "pr_auc", "auc_abnormal", "far", "video_auc", "video_ap"):
            value = None if np.isnan(drawn[name][b]) else drawn[name][b]
            assert value == pytest.approx(expected[name], abs=1e-12), name
        if "Arson" in expected["per_class"]:
            value = drawn["per_class/Arson"][b] if abnormal else np.nan
            assert (None if np.isnan(value) else value) == pytest.approx(
                expected["per_class"]["Arson"], abs=1e-12
            )


def test_groups_are_drawn_whole():
    weights_BxV = resampling.draw(["a", "b", "a", "c"], 50, 0)
    np.testing.assert_array_equal(weights_BxV[:, 0], weights_BxV[:, 2])
    np.testing.assert_array_equal(weights_BxV[:, [0, 1, 3]].sum(axis=1), 3)
    assert len(np.unique(weights_BxV[:, 0])) > 2


def test_perfect_scores_have_no_spread_and_one_label_no_interval():
    labels = {"a": np.array([0, 1]), "b": np.array([0, 0]), "c": np.array([1, 1])}
    sample = _sample(labels, labels)
    found = resampling.intervals(sample, list(labels), 200)
    assert found["auc"] == found["ap"] == found["pr_auc"] == [1.0, 1.0] and found["far"] == [0, 0]
    assert (found["draws"], found["units"], found["level"]) == (200, 3, 0.95)
    nothing = {"a": np.array([0, 0]), "b": np.array([0, 0])}
    found = resampling.intervals(_sample(nothing, nothing), ["a", "b"], 100)
    assert found["auc"] is found["ap"] is None and found["far"] == [0, 0]


def test_draws_repeat_with_their_seed():
    sample = _sample(*_videos(np.random.default_rng(1), 12))
    ids = [str(v) for v in range(12)]
    assert resampling.intervals(sample, ids, 100, 3) == resampling.intervals(sample, ids, 100, 3)
    assert resampling.intervals(sample, ids, 100, 3) != resampling.intervals(sample, ids, 100, 4)


def _clustered(rng, videos=60):
    """Frames of a video share a shift, so that they don't tell as much as independent ones."""
    scores, labels = {}, {}
    for v in range(videos):
        label = np.zeros(30, int)
        label[10:20] = v % 2
        scores[str(v)] = rng.normal(size=30) + rng.normal() + 1.2 * label
        labels[str(v)] = label
    return scores, labels


def test_intervals_of_videos_cover_and_those_of_frames_would_not():
    # Frame scores are N(0, 2) and N(1.2, 2), but pairs within a video share their shift.
    between, within = stats.norm.cdf(1.2 / 2), stats.norm.cdf(1.2 / np.sqrt(2))
    truth = between + (within - between) * (30 * 10 * 20) / ((30 * 10) * (60 * 30 - 30 * 10))
    rng = np.random.default_rng(0)
    covered, as_frames, trials = 0, 0, 120
    for trial in range(trials):
        scores, labels = _clustered(rng)
        low, high = resampling.intervals(_sample(scores, labels), list(scores), 200, trial)["auc"]
        covered += low <= truth <= high
        # Hanley and McNeil's error, as if frames were independent.
        auc = metrics.roc_auc(
            np.concatenate([*scores.values()]), np.concatenate([*labels.values()])
        )
        p, n = 300, 1500
        q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        error = np.sqrt(
            (auc * (1 - auc) + (p - 1) * (q1 - auc**2) + (n - 1) * (q2 - auc**2)) / p / n
        )
        as_frames += abs(auc - truth) < 1.96 * error
    # 95 % of 120 is 114; three standard errors are 7.
    assert covered >= 107, covered
    assert as_frames < 90, as_frames


def test_the_influence_of_independent_frames_is_delongs():
    # One frame a video: the variance is DeLong's, (S10 / P + S01 / N), up to the divisors.
    rng = np.random.default_rng(2)
    positive, negative = np.round(rng.normal(1, 1, 40), 1), np.round(rng.normal(0, 1, 60), 1)
    scores = {str(k): np.array([s]) for k, s in enumerate([*positive, *negative])}
    labels = {i: np.array([int(k < 40)]) for k, i in enumerate(scores)}
    moves_V = _sample(scores, labels).influence()
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    expected = wins.mean(axis=1).var() / 40 + wins.mean(axis=0).var() / 60
    assert moves_V.sum() == pytest.approx(0, abs=1e-12)
    assert np.sum(moves_V**2) == pytest.approx(expected, rel=1e-9)


def test_detectors_are_compared_on_the_same_draws():
    rng = np.random.default_rng(3)
    scores, labels = _clustered(rng)
    ids = list(scores)
    better = {i: scores[i] + 0.8 * labels[i] for i in ids}
    one, other = _sample(better, labels), _sample(scores, labels)
    compared = resampling.compare(one, other, ids, 500)
    auc = compared["auc"]
    assert auc["one"] == pytest.approx(metrics.frame_measures(better, labels)["auc"], abs=1e-12)
    assert auc["difference"] == pytest.approx(auc["one"] - auc["other"], abs=1e-12)
    low, high = auc["interval"]
    assert 0 < low < auc["difference"] < high
    assert auc["p"] == pytest.approx(2 / 501) and auc["p_delong"] < 1e-6
    # The detectors share their videos, so the difference is known better than either of them.
    alone = resampling.intervals(one, ids, 500)["auc"]
    assert high - low < alone[1] - alone[0]
    same = resampling.compare(one, one, ids, 100)["ap"]
    assert (same["difference"], same["interval"], same["p"]) == (0.0, [0.0, 0.0], 1.0)


def test_equal_detectors_are_seldom_told_apart():
    rng = np.random.default_rng(4)
    p_values = []
    for trial in range(100):
        scores, labels = _clustered(rng, 40)
        noisy = [{i: s + rng.normal(size=30) for i, s in scores.items()} for _ in range(2)]
        one, other = (_sample(s, labels) for s in noisy)
        auc = resampling.compare(one, other, list(scores), 100, trial)["auc"]
        p_values.append((auc["p"], auc["p_delong"]))
    # 5 of 100 are expected below 0.05; three standard errors more are 11.5.
    assert (np.array(p_values) < 0.05).sum(axis=0).max() <= 12
