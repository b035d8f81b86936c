"""Aligns snippets with a video's frames: their spans, times and frame scores. numpy only.

All functions raise ValueError, with the argument's name, for sizes, rates and shapes that can't be.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.files import Json

# In the published protocol a snippet has 16 frames, and its score is repeated 16 times.
REFERENCE_REPEAT = 16
# Most frames of a resampled video: a week at 25 a second. More means that a rate is wrong.
MOST_FRAMES = 1 << 24


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, found {value}")


def snippet_spans(num_frames: int, frames: int, stride: int) -> np.ndarray:
    """Computes the spans of a video's snippets, which start at 0, stride, 2 stride ...

    There are as many as it takes to reach the video's end.

    Args:
      num_frames: frames of the video after resampling.
      frames: frames in a snippet.
      stride: frames from one snippet's start to the next one's.

    Returns:
      int64 [T, 2], [start, end) in frames; the last snippet may be shorter than the others.
    """
    _require_positive(frames=frames, stride=stride)
    num_snippets = max(0, -(-(num_frames - frames) // stride)) + 1
    starts_T = np.arange(num_snippets, dtype=np.int64) * stride
    starts_T = starts_T[starts_T < num_frames]
    return np.stack([starts_T, np.minimum(starts_T + frames, num_frames)], axis=1)


def resampled_frames(num_frames: int, fps: float, target_fps: float) -> np.ndarray:
    """Resamples a video to another rate by choosing the source frames nearest in time.

    Args:
      num_frames: frames of the source video, at least 1.
      fps: frames per second of the source video.
      target_fps: frames per second to resample to.

    Returns:
      int64 [frames at the target rate], indices of source frames.

    Raises:
      UserError: there would be more than MOST_FRAMES frames.
    """
    _require_positive(num_frames=num_frames, fps=fps, target_fps=target_fps)
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
    """Computes the time that each snippet of a video covers.

    Args:
      num_frames: frames of the source video.
      fps: frames per second of the source video.
      frames: frames in a snippet, at the policy's rate.
      stride: frames from one snippet's start to the next one's, at the policy's rate.
      fps_policy: "native", or the rate in frames per second that videos were resampled to.

    Returns:
      float64 [T, 2], start and end in seconds of the source video.
    """
    _require_positive(fps=fps)
    if fps_policy == "native":
        return snippet_spans(num_frames, frames, stride) / fps
    count = len(resampled_frames(num_frames, fps, float(fps_policy)))
    return snippet_spans(count, frames, stride) / float(fps_policy)


def frame_scores(
    scores_T: np.ndarray, times_Tx2: np.ndarray, num_frames: int, fps: float
) -> np.ndarray:
    """Computes frame scores: the mean of the snippets that cover the middle of a frame's time.

    A frame that no snippet covers (in a gap between snippets, or at the end by rounding) takes the
    score of the snippet nearest in time.

    Args:
      scores_T: one score for each snippet, at least one.
      times_Tx2: start and end of each snippet in seconds, both rising.
      num_frames: frames of the source video.
      fps: frames per second of the source video.

    Returns:
      float32 [num_frames].
    """
    if np.ndim(scores_T) != 1 or not len(scores_T):
        raise ValueError(
            f"scores_T: expected at least one snippet's score, found {list(np.shape(scores_T))}"
        )
    if np.shape(times_Tx2) != (len(scores_T), 2):
        raise ValueError(
            f"times_Tx2: expected shape [{len(scores_T)}, 2], a start and an end for each score, "
            f"found {list(np.shape(times_Tx2))}"
        )
    _require_positive(fps=fps)
    middles_F = (np.arange(num_frames) + 0.5) / fps
    starts_T, ends_T = times_Tx2.T
    # Starts and ends both rise, so the snippets that cover a moment are [first, last).
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


def is_published(snippet: Mapping[str, Json], fps_policy: float | str) -> bool:
    """Tells whether the published protocol applies: snippets of 16 frames, every 16 frames.

    Other snippets, repeated 16 times, would not match the frames in time. "unknown" values may
    match.

    Args:
      snippet: the manifest's {frames, stride, ...}.
      fps_policy: the manifest's policy; the protocol needs the video's own rate, "native".
    """
    known = {snippet["frames"], snippet["stride"]} - {"unknown"}
    return known <= {REFERENCE_REPEAT} and fps_policy in ("native", "unknown")


def reference_frame_scores(scores_T: np.ndarray) -> np.ndarray:
    """Repeats each snippet's score 16 times, as in the published protocol.

    Args:
      scores_T: one score for each snippet.

    Returns:
      float32 [16 T].
    """
    return np.repeat(np.asarray(scores_T, np.float32), REFERENCE_REPEAT)


def reference_align(
    scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts or pads labels to the length of the scores, as in the published protocol.

    Args:
      scores: one score for each frame, from `reference_frame_scores`.
      labels: 0 or 1 for each frame, at least one.

    Returns:
      (scores, labels), both as long as the scores; padding repeats the last label.
    """
    if not len(labels):
        raise ValueError("labels: expected at least one frame's label, found none")
    scores, labels = np.asarray(scores), np.asarray(labels)
    if len(labels) >= len(scores):
        return scores, labels[: len(scores)]
    padding = np.full(len(scores) - len(labels), labels[-1])
    return scores, np.concatenate([labels, padding])
