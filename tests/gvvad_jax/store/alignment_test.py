"""Snippets and frames: spans, times, resampling, frame scores."""

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store import alignment


@pytest.mark.parametrize(
    ("num_frames", "frames", "stride", "spans"),
    [
        (1, 16, 16, [[0, 1]]),
        (16, 16, 16, [[0, 16]]),
        (17, 16, 16, [[0, 16], [16, 17]]),
        (20, 16, 4, [[0, 16], [4, 20]]),
        (21, 16, 4, [[0, 16], [4, 20], [8, 21]]),
        (5, 2, 4, [[0, 2], [4, 5]]),
        (4, 2, 4, [[0, 2]]),
    ],
)
def test_snippet_spans(num_frames, frames, stride, spans):
    np.testing.assert_array_equal(alignment.snippet_spans(num_frames, frames, stride), spans)


def test_resampling_takes_the_frames_nearest_in_time():
    np.testing.assert_array_equal(alignment.resampled_frames(6, 30, 15), [1, 3, 5])
    np.testing.assert_array_equal(alignment.resampled_frames(3, 5, 10), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(alignment.resampled_frames(1, 30, 10), [0])
    np.testing.assert_array_equal(alignment.resampled_frames(9, 30, 1e-9), [8])


@pytest.mark.parametrize(("fps", "target_fps"), [(1e-9, 8.0), (10, 1e12), (5e-324, 1e300)])
def test_resampling_to_no_possible_length_is_refused(fps, target_fps):
    with pytest.raises(UserError, match="expected at most 16777216 frames after resampling"):
        alignment.resampled_frames(12, fps, target_fps)


def test_snippet_times_follow_the_fps_policy():
    np.testing.assert_allclose(
        alignment.snippet_times(20, 10.0, 16, 16, "native"), [[0, 1.6], [1.6, 2.0]]
    )
    np.testing.assert_allclose(
        alignment.snippet_times(60, 30.0, 16, 16, 10.0), [[0, 1.6], [1.6, 2.0]]
    )


def test_frame_scores_are_means_of_the_covering_snippets():
    times_Tx2 = np.array([[0.0, 0.4], [0.2, 0.6]])
    scores = alignment.frame_scores(np.array([1.0, 3.0]), times_Tx2, 8, 10.0)
    np.testing.assert_allclose(scores, [1, 1, 2, 2, 3, 3, 3, 3])


def test_a_frame_between_snippets_takes_the_nearest():
    times_Tx2 = np.array([[0.0, 0.2], [0.45, 0.7]])
    scores = alignment.frame_scores(np.array([1.0, 3.0]), times_Tx2, 9, 10.0)
    np.testing.assert_allclose(scores, [1, 1, 1, 3, 3, 3, 3, 3, 3])


def test_small_scores_keep_their_order_beside_large_ones():
    """Differences of running sums would round them to multiples of 1e-13 and more."""
    scores_T = np.concatenate([np.full(2000, 0.999), 1e-12 * np.arange(1, 2001)[::-1]])
    expected = np.repeat(scores_T.astype(np.float32), 16)
    for fps in (25.0, 29.97):
        times_Tx2 = alignment.snippet_times(64000, fps, 16, 16, "native")
        frames = alignment.frame_scores(scores_T, times_Tx2, 64000, fps)
        np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("stride", [1, 3, 8, 16, 20])
def test_frame_scores_equal_the_plain_means(stride):
    num_frames, rng = 300, np.random.default_rng(stride)
    spans_Tx2 = alignment.snippet_spans(num_frames, 16, stride)
    scores_T = 10.0 ** rng.uniform(-30, 0, len(spans_Tx2))
    frames = alignment.frame_scores(scores_T, spans_Tx2.astype(float), num_frames, 1.0)
    for frame in range(num_frames):
        covers = (spans_Tx2[:, 0] <= frame) & (frame < spans_Tx2[:, 1])
        if covers.any():
            assert frames[frame] == pytest.approx(scores_T[covers].mean(), rel=1e-6, abs=1e-44)
    assert not len(alignment.frame_scores(scores_T, spans_Tx2.astype(float), 0, 1.0))


def test_rows_lie_where_the_manifest_says():
    exact = {"frames": 16, "stride": 16, "alignment": "exact"}
    times_Tx2, note = alignment.row_times(3, 65, 10.0, exact, "native")
    np.testing.assert_allclose(times_Tx2, [[0, 1.6], [1.6, 3.2], [3.2, 4.8]])
    assert note == "the last 17 frames have no row, and take the last row's score"
    # At the policy's rate: 195 frames at 30 a second are 65 at 10.
    np.testing.assert_allclose(alignment.row_times(3, 195, 30.0, exact, 10.0)[0], times_Tx2)
    assert alignment.row_times(5, 65, 10.0, exact, "native")[0][-1].tolist() == [6.4, 6.5]
    for snippet, rows in ((exact | {"alignment": "even"}, 5), (exact, 32), (exact, 2)):
        times_Tx2, note = alignment.row_times(rows, 65, 10.0, snippet, "native")
        np.testing.assert_allclose(times_Tx2[:, 0], np.arange(rows) * 6.5 / rows)
        assert (note is None) == (snippet["alignment"] == "even")


@pytest.mark.parametrize(
    ("changes", "policy", "named"),
    [
        ({"frames": 0}, "native", "snippet.frames a positive int or unknown, found 0"),
        ({"frames": "16"}, "native", "snippet.frames a positive int or unknown, found '16'"),
        ({"stride": None}, "native", "snippet.stride a positive int or unknown, found None"),
        ({"stride": True}, "native", "snippet.stride a positive int or unknown, found True"),
        ({"alignment": "left"}, "native", "snippet.alignment exact or even, found 'left'"),
        ({}, "slow", "fps_policy native, unknown or a positive number, found 'slow'"),
        ({}, 0, "fps_policy native, unknown or a positive number, found 0"),
        ({}, float("nan"), "fps_policy native, unknown or a positive number, found nan"),
        ({}, [8.0], r"fps_policy native, unknown or a positive number, found [8.0]"),
    ],
)
def test_what_is_wrong_with_a_manifests_snippet(changes, policy, named):
    snippet = {"frames": 16, "stride": 16, "alignment": "exact"}
    assert not alignment.snippet_faults(snippet, 8.0)
    assert not alignment.snippet_faults({"frames": "unknown", "stride": "unknown"}, "unknown")
    assert alignment.snippet_faults(snippet | changes, policy) == [f"expected {named}"]


def test_rows_of_a_video_of_unknown_length():
    snippet = {"frames": 16, "stride": 16}
    times_Tx2, frames = alignment.row_spans(10, 25.0, snippet, 8.0)
    assert (times_Tx2[-1].tolist(), frames) == ([18.0, 20.0], 500)
    times_Tx2, frames = alignment.row_spans(10, 25.0, snippet, "native")
    assert (times_Tx2[-1].tolist(), frames) == ([5.76, 6.4], 160)
    with pytest.raises(UserError, match="found unknown stride and fps_policy; put them into"):
        alignment.row_spans(10, 25.0, snippet | {"stride": "unknown"}, "unknown")
    with pytest.raises(UserError, match="found rows that share a time evenly"):
        alignment.row_spans(10, 25.0, snippet | {"alignment": "even"}, "native")


@pytest.mark.parametrize(
    ("frames", "stride", "policy", "published"),
    [
        (16, 16, "native", True),
        (16, "unknown", "unknown", True),
        (16, 4, "native", False),
        (8, 16, "native", False),
        (16, 16, 30.0, False),
    ],
)
def test_the_published_protocol_is_of_16_frames(frames, stride, policy, published):
    snippet = {"frames": frames, "stride": stride, "pooling": "mean"}
    assert alignment.is_published(snippet, policy) is published


def test_reference_protocol_repeats_cuts_and_pads():
    scores = alignment.reference_frame_scores(np.array([0.5, 1.0]))
    assert scores.shape == (32,) and scores[15] == 0.5 and scores[16] == 1.0
    _, cut = alignment.reference_align(scores, np.arange(40))
    np.testing.assert_array_equal(cut, np.arange(32))
    _, padded = alignment.reference_align(scores, [0] * 29 + [1])
    np.testing.assert_array_equal(padded, [0] * 29 + [1] * 3)


def test_wrong_arguments_are_named():
    times_Tx2 = np.array([[0.0, 0.4], [0.2, 0.6]])
    with pytest.raises(ValueError, match="^stride: expected a positive number, found 0"):
        alignment.snippet_spans(9, 4, 0)
    with pytest.raises(ValueError, match="^target_fps: "):
        alignment.resampled_frames(9, 10.0, 0.0)
    with pytest.raises(ValueError, match="^fps: "):
        alignment.snippet_times(9, 0.0, 4, 4, "native")
    with pytest.raises(ValueError, match=r"^times_Tx2: expected shape \[3, 2\].* \[2, 2\]"):
        alignment.frame_scores(np.ones(3), times_Tx2, 8, 10.0)
    with pytest.raises(ValueError, match="^scores_T: "):
        alignment.frame_scores(np.ones(0), times_Tx2[:0], 8, 10.0)
    with pytest.raises(ValueError, match="^labels: "):
        alignment.reference_align([0.5], [])
