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
