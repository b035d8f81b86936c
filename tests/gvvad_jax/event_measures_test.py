"""Measures of events: exact values by hand, and AP against a plain implementation."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gvvad_jax import event_measures, events
from gvvad_jax.event_measures import Detections


def _event(start, end, peak=0.9):
    return events.Event(video="a", start=start, end=end, peak=peak, peak_time=start, mean=peak,
                        threshold=0.5)  # fmt: skip


def test_the_iou_by_hand():
    # [0, 4) and [2, 6) share 2 of 6 seconds; [6, 8) only touches [2, 6).
    found = event_measures.iou([(0, 4), (6, 8), (2, 6)], [(2, 6)])
    np.testing.assert_allclose(found, [[2 / 6], [0], [1]])
    assert event_measures.iou([], [(0, 1)]).shape == (0, 1)


def test_each_interval_is_matched_once_by_the_surest():
    overlaps = np.array([[0.6, 0.5], [0.9, 0.0], [0.2, 0.5]])
    # The second loses its only interval to the first, which is surer.
    np.testing.assert_array_equal(event_measures.match(overlaps, 0.5), [True, False, True])
    np.testing.assert_array_equal(event_measures.match(overlaps, 0.55), [True, False, False])
    np.testing.assert_array_equal(event_measures.match(overlaps[:, :0], 0.5), [False] * 3)


def test_precision_recall_and_delay_by_hand():
    found = {
        "a": [_event(3, 5), _event(20, 30, 0.95), _event(24, 40)],
        "n": [_event(0, 2)],
        "b": [],
    }
    intervals = {"a": [(2, 6), (22, 30), (50, 60)], "b": [(1, 2)]}
    precision, recall, delay = event_measures.at_threshold(found, intervals, (0.3, 0.6))
    # IoU 2/4, 8/10, 6/18: at 0.3 the third finds its interval taken.
    assert precision == {"events": 4, "any": 3 / 4, "0.3": 2 / 4, "0.6": 1 / 4}
    assert recall == {"intervals": 4, "any": 2 / 4, "0.3": 2 / 4, "0.6": 1 / 4}
    # One second late, and two seconds before the interval's start.
    assert delay == {"found": 2, "missed": 2, "mean": 0.5, "median": 0.5, "longest": 1.0}
    precision, recall, delay = event_measures.at_threshold({"a": []}, {"a": []})
    assert precision["any"] is recall["any"] is delay["mean"] is None


def test_average_precision_by_hand():
    found = {
        "a": Detections(np.array([[0.0, 10.0], [50.0, 60.0]]), np.array([0.9, 0.7])),
        "n": Detections(np.array([[0.0, 5.0]]), np.array([0.8])),
    }
    intervals = {"a": [(0.0, 10.0), (50.0, 60.0)]}
    # Right, wrong, right: precision 1 at recall 1/2, 2/3 at 1.
    assert event_measures.average_precision(found, intervals, 0.5) == pytest.approx(1 / 2 + 1 / 3)
    # A tie counts together: two of three, for both halves of the recall.
    tied = {i: d._replace(scores_E=np.full(len(d.scores_E), 0.5)) for i, d in found.items()}
    assert event_measures.average_precision(tied, intervals, 0.5) == pytest.approx(2 / 3)
    assert event_measures.average_precision(found, {"a": []}, 0.5) is None
    assert event_measures.average_precision({}, {"a": [(0, 1)]}, 0.5) == 0.0


def _plain_average_precision(found, intervals, least):
    """ActivityNet's measure, written from its description, one detection at a time."""
    ranked = sorted(((s, i, tuple(span)) for i, d in found.items()
                     for span, s in zip(d.spans_Ex2, d.scores_E, strict=True)),
                    key=lambda d: -d[0])  # fmt: skip
    taken, right = set(), []
    for _, video_id, (start, end) in ranked:
        best, best_iou = None, 0.0
        for g, (low, high) in enumerate(intervals.get(video_id, ())):
            shared = max(0.0, min(end, high) - max(start, low))
            overlap = shared / ((end - start) + (high - low) - shared)
            if overlap >= least and overlap > best_iou and (video_id, g) not in taken:
                best, best_iou = (video_id, g), overlap
        right.append(best is not None)
        taken.add(best)
    total = sum(map(len, intervals.values()))
    area = 0.0
    for k, hit in enumerate(right):
        if hit:
            area += max(sum(right[: n + 1]) / (n + 1) for n in range(k, len(right))) / total
    return area


_SPAN = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda s: (s[0], s[0] + s[1]))


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 2), _SPAN), max_size=12),
    st.lists(st.tuples(st.integers(0, 2), _SPAN), min_size=1, max_size=8),
    st.sampled_from(event_measures.IOUS),
    st.randoms(use_true_random=False),
)
def test_average_precision_is_a_plain_implementations(detections, truths, least, random):
    # Scores differ, because their order among equals is anyone's choice.
    scores = random.sample(range(100), len(detections))
    found, intervals = {}, {v: [s for w, s in truths if w == v] for v in range(3)}
    for v in range(3):
        own = sorted(
            ((s, span) for s, (w, span) in zip(scores, detections, strict=True) if w == v),
            reverse=True,
        )
        spans = np.array([span for _, span in own], float).reshape(-1, 2)
        found[v] = Detections(spans, np.array([s for s, _ in own], float))
    assert event_measures.average_precision(found, intervals, least) == pytest.approx(
        _plain_average_precision(found, intervals, least), abs=1e-12
    )


def test_candidates_are_runs_above_some_threshold():
    times = {"a": np.stack([np.arange(6.0), np.arange(6.0) + 1], axis=1)}
    found = event_measures.candidates({"a": np.array([0, 0.4, 1, 0.4, 0, 0])}, times, levels=4)["a"]
    # Above 0.5 and 0.75 the third snippet, above 0 and 0.25 its neighbours too.
    np.testing.assert_array_equal(found.spans_Ex2, [[1, 4], [2, 3]])
    # 1.8 / 3 less 0, and 1 less 0.4 around it.
    np.testing.assert_allclose(found.scores_E, [0.6, 0.6])
    # Of two that overlap by 4 / 5 one is left: 0.9 less 0, rather than 1 less 0.5.
    found = event_measures.candidates({"a": np.array([0, 0.5, 1, 1, 1, 1])}, times, levels=2)["a"]
    np.testing.assert_array_equal(found.spans_Ex2, [[1, 6]])
    np.testing.assert_allclose(found.scores_E, [0.9])


def test_a_gap_in_the_footage_ends_a_candidate():
    times = {"a": np.array([[0, 1], [1, 2], [5, 6.0]]), "b": np.array([[0.0, 1]])}
    scores = {"a": np.array([1.0, 1, 1]), "b": np.array([1.0]), "c": np.array([0.0])}
    found = event_measures.candidates(scores, times | {"c": np.array([[0.0, 1]])})
    np.testing.assert_array_equal(found["a"].spans_Ex2, [[0, 2], [5, 6]])
    np.testing.assert_array_equal(found["b"].spans_Ex2, [[0, 1]])
    assert not len(found["c"].spans_Ex2)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), max_size=5))
def test_perfect_scores_have_an_average_precision_of_1(videos):
    from gvvad_jax import curves

    labels = {str(k): np.array(video) for k, video in enumerate(videos)}
    times = {i: events.frame_times(len(labels_F), 25.0) for i, labels_F in labels.items()}
    intervals = {i: [(s / 25.0, e / 25.0) for s, e in curves.spans(labels_F)]
                 for i, labels_F in labels.items()}  # fmt: skip
    # A set without a negative frame has no threshold that tells.
    if not any(intervals.values()) or all(labels_F.all() for labels_F in labels.values()):
        return
    found = event_measures.candidates(labels, times)
    measured = event_measures.mean_average_precision(found, intervals)
    assert measured == pytest.approx(
        dict.fromkeys(("0.1", "0.2", "0.3", "0.4", "0.5", "mean"), 1.0)
    )


def test_the_mean_over_classes_takes_each_classes_and_the_normal_videos():
    spans = np.array([[0.0, 1.0]])
    found = {
        "a": Detections(spans, np.array([0.9])),
        "b": Detections(spans, np.array([0.5])),
        "n": Detections(spans, np.array([0.7])),
    }
    intervals = {"a": [(0.0, 1.0)], "b": [(0.0, 1.0)]}
    by_class = {"Arson": ["a"], "Abuse": ["b"]}
    # Arson ranks above the false alarm, Abuse below it: 1 and 1/2. Together 1/2 + 1/2 * 2/3.
    assert event_measures.mean_average_precision(found, intervals, by_class, ["n"], (0.5,)) == {
        "0.5": 3 / 4, "mean": 3 / 4,
    }  # fmt: skip
    assert event_measures.mean_average_precision(found, intervals, ious=(0.5,))["mean"] == (
        pytest.approx(1 / 2 + 1 / 3)
    )
