"""How snippets lie over a video's frames, and how their scores become frame scores. numpy only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError

# The published protocol: a snippet is 16 frames and its score is repeated 16 times.
REFERENCE_REPEAT = 16
# Of a resampled video: a week at 25 a second. What asks for more is a mistaken rate.
MOST_FRAMES = 1 << 24


def snippet_spans(num_frames: int, frames: int, stride: int) -> np.ndarray:
    """Where a video's snippets lie: 0, stride, 2 stride ... until its end is covered.

    Args:
      num_frames: frames of the video after resampling, at least 1.
      frames: frames a snippet.
      stride: frames from one snippet's start to the next one's.

    Returns:
      int64 [T, 2], [start, end) in frames; the last snippet may be shorter than the others.
    """
    num_snippets = max(0, -(-(num_frames - frames) // stride)) + 1
    starts_T = np.arange(num_snippets, dtype=np.int64) * stride
    starts_T = starts_T[starts_T < num_frames]
    return np.stack([starts_T, np.minimum(starts_T + frames, num_frames)], axis=1)


def resampled_frames(num_frames: int, fps: float, target_fps: float) -> np.ndarray:
    """Which source frames stand for a video resampled to another rate: the nearest ones in time.

    Args:
      num_frames: of the source, at least 1.
      fps: of the source.
      target_fps: wanted.

    Returns:
      int64 [frames at the target rate], indices of source frames.

    Raises:
      UserError: there would be more than MOST_FRAMES.
    """
    wanted = num_frames / fps * target_fps
    if not wanted <= MOST_FRAMES:
        raise UserError(
            f"expected at most {MOST_FRAMES} frames after resampling, found {wanted:g}: "
            f"{num_frames} frames at {fps:g} a second, resampled to {target_fps:g}; correct the "
            "video's fps or --fps_policy"
        )
    count = max(1, round(wanted))
    times = (np.arange(count) + 0.5) / target_fps
    return np.clip(np.floor(times * fps), 0, num_frames - 1).astype(np.int64)


def snippet_times(
    num_frames: int, fps: float, frames: int, stride: int, fps_policy: float | str
) -> np.ndarray:
    """The time that each snippet of a video covers.

    Args:
      num_frames: of the source video.
      fps: of the source video.
      frames: frames a snippet, at the policy's rate.
      stride: frames between starts, at the policy's rate.
      fps_policy: "native", or the rate in frames per second that videos were resampled to.

    Returns:
      float64 [T, 2], start and end in seconds of the source video.
    """
    if fps_policy == "native":
        return snippet_spans(num_frames, frames, stride) / fps
    count = len(resampled_frames(num_frames, fps, float(fps_policy)))
    return snippet_spans(count, frames, stride) / float(fps_policy)


def frame_scores(
    scores_T: np.ndarray, times_Tx2: np.ndarray, num_frames: int, fps: float
) -> np.ndarray:
    """Frame scores: the mean of the snippets that cover the middle of each frame's time.

    A frame that none covers (a gap between snippets, or rounding at the end) takes the snippet
    nearest in time.

    Args:
      scores_T: one score a snippet.
      times_Tx2: start and end of each snippet in seconds, both rising.
      num_frames: frames of the source video.
      fps: of the source video.

    Returns:
      float32 [num_frames].

    Raises:
      ValueError: scores and times differ in length.
    """
    if len(scores_T) != len(times_Tx2):
        raise ValueError(
            f"expected as many scores as times, found {len(scores_T)} and {len(times_Tx2)}"
        )
    middles_F = (np.arange(num_frames) + 0.5) / fps
    starts_T, ends_T = times_Tx2.T
    # Starts and ends both rise, so the snippets that cover a moment are the run [first, last).
    first_F = np.searchsorted(ends_T, middles_F, side="right")
    last_F = np.searchsorted(starts_T, middles_F, side="right")
    sums = np.concatenate([[0.0], np.cumsum(scores_T, dtype=np.float64)])
    count_F = last_F - first_F
    means_F = (sums[np.maximum(last_F, first_F)] - sums[first_F]) / np.maximum(count_F, 1)
    before_F = np.clip(last_F - 1, 0, None)
    after_F = np.clip(first_F, None, len(scores_T) - 1)
    nearer_after_F = starts_T[after_F] - middles_F < middles_F - ends_T[before_F]
    nearest_F = np.where(nearer_after_F, after_F, before_F)
    return np.where(count_F > 0, means_F, scores_T[nearest_F]).astype(np.float32)


def is_published(snippet: Mapping[str, Any], fps_policy: float | str) -> bool:
    """Whether the published protocol holds: snippets of 16 frames every 16 at the video's rate.

    Where a store says "unknown" it may. Other snippets repeated 16 times would be out of time.
    """
    known = {snippet["frames"], snippet["stride"]} - {"unknown"}
    return known <= {REFERENCE_REPEAT} and fps_policy in ("native", "unknown")


def reference_frame_scores(scores_T: np.ndarray) -> np.ndarray:
    """The published protocol: each snippet's score repeated 16 times.

    Args:
      scores_T: one score a snippet.

    Returns:
      float32 [16 T].
    """
    return np.repeat(np.asarray(scores_T, np.float32), REFERENCE_REPEAT)


def reference_align(
    scores: Sequence[float], labels: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The published protocol's lengths: too long a truth is cut, too short a one padded.

    Args:
      scores: per frame, as `reference_frame_scores` gives them.
      labels: 0/1 per frame.

    Returns:
      (scores, labels) of the scores' length; padding repeats the last label.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if len(labels) >= len(scores):
        return scores, labels[: len(scores)]
    padding = np.full(len(scores) - len(labels), labels[-1])
    return scores, np.concatenate([labels, padding])
