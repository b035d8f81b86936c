"""Aligns snippets with a video's frames: their spans, times and frame scores. numpy only.

All functions raise ValueError, with the argument's name, for sizes, rates and shapes that can't be.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.files import Json

# In the published protocol a snippet has 16 frames, and its score is repeated 16 times.
REFERENCE_REPEAT = 16
# Where a store's rows lie if the manifest says so; see row_times.
ALIGNMENTS = ("exact", "even")
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
    """Computes the time that each snippet of a video covers, by the encoder's rule.

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


def fits(num_rows: int, num_frames: int, frames: int, stride: int) -> bool:
    """Tells whether row k may cover [k stride, k stride + frames) of a video.

    The last row must begin inside the video, and at most one more row, begun or whole, may be
    missing at its end, as in published features.

    Args:
      num_rows: rows of the video, at least 1.
      num_frames: frames of the video after resampling.
      frames: frames in a snippet.
      stride: frames from one snippet's start to the next one's.
    """
    _require_positive(num_rows=num_rows, frames=frames, stride=stride)
    end = (num_rows - 1) * stride + frames
    return (num_rows - 1) * stride < num_frames < end + 2 * stride


def row_times(
    num_rows: int, num_frames: int, fps: float, snippet: Mapping[str, Json], fps_policy: float | str
) -> tuple[np.ndarray, str | None]:
    """Computes the time that each row of a video covers, as its store's manifest says.

    Row k covers the frames [k stride, k stride + frames), at the policy's rate. There are as many
    rows as reach the video's end, unless the snippet's "alignment" is "exact": then the frames
    after the last row belong to no row, and `frame_scores` gives them the last row's score. Rows
    share the video's time evenly if the alignment is "even", if a size or the policy isn't known,
    or if there is another number of rows than that.

    Args:
      num_rows: rows of the video.
      num_frames: frames of the source video.
      fps: frames per second of the source video.
      snippet: the manifest's {frames, stride, ...}.
      fps_policy: the manifest's policy.

    Returns:
      (float64 [T, 2], start and end in seconds of the source video; what people must know about
      these times, or None).
    """
    _require_positive(num_rows=num_rows, num_frames=num_frames, fps=fps)
    borders = np.linspace(0.0, num_frames / fps, num_rows + 1)
    even_Tx2 = np.stack([borders[:-1], borders[1:]], axis=1)
    alignment = snippet.get("alignment")
    if alignment == "even":
        return even_Tx2, None
    if unknown := _unknown(snippet, fps_policy):
        return even_Tx2, f"the manifest doesn't know {unknown}: rows share the video's time evenly"
    frames, stride = snippet["frames"], snippet["stride"]
    times_Tx2 = snippet_times(num_frames, fps, frames, stride, fps_policy)
    if len(times_Tx2) == num_rows:
        return times_Tx2, None
    native = fps_policy == "native"
    rate = fps if native else float(fps_policy)
    count = num_frames if native else len(resampled_frames(num_frames, fps, rate))
    if alignment != "exact" or not fits(num_rows, count, frames, stride):
        return even_Tx2, (
            f"{num_rows} rows where snippets of {frames} frames, every {stride}, make "
            f"{len(times_Tx2)}: rows share the video's time evenly"
        )
    starts_T = np.arange(num_rows) * stride
    times_Tx2 = np.stack([starts_T, np.minimum(starts_T + frames, count)], axis=1) / rate
    rest = count - int(starts_T[-1]) - frames
    return times_Tx2, f"the last {rest} frames have no row, and take the last row's score"


def snippet_faults(snippet: Mapping[str, Json], fps_policy: float | str) -> list[str]:
    """Lists what is wrong with a manifest's snippet and policy, as "expected X, found Y"."""
    faults = []
    for name in ("frames", "stride"):
        value = snippet.get(name)
        if value != "unknown" and (type(value) is not int or not 0 < value <= MOST_FRAMES):
            faults.append(f"expected snippet.{name} a positive int or unknown, found {value!r}")
    if snippet.get("alignment") not in (None, *ALIGNMENTS):
        wanted = " or ".join(ALIGNMENTS)
        faults.append(f"expected snippet.alignment {wanted}, found {snippet['alignment']!r}")
    if fps_policy not in ("native", "unknown") and (
        not isinstance(fps_policy, int | float) or not 0 < fps_policy < math.inf
    ):
        faults.append(
            f"expected fps_policy native, unknown or a positive number, found {fps_policy!r}"
        )
    return faults


def _unknown(snippet: Mapping[str, Json], fps_policy: float | str) -> str:
    """Names the values that say where rows lie and aren't known."""
    values = {name: snippet.get(name, "unknown") for name in ("frames", "stride")}
    values["fps_policy"] = fps_policy
    return " and ".join(name for name, value in values.items() if value == "unknown")


def row_spans(
    num_rows: int, fps: float, snippet: Mapping[str, Json], fps_policy: float | str
) -> tuple[np.ndarray, int]:
    """Computes the times of rows of a video whose length isn't known: it ends with its last row.

    Args:
      num_rows: rows of the video.
      fps: frames per second of the source video.
      snippet: the manifest's {frames, stride, ...}.
      fps_policy: the manifest's policy.

    Returns:
      (float64 [T, 2], start and end in seconds; the number of frames of the source video).

    Raises:
      UserError: the manifest doesn't say where rows lie.
    """
    _require_positive(num_rows=num_rows, fps=fps)
    unknown = _unknown(snippet, fps_policy)
    if unknown or snippet.get("alignment") == "even":
        raise UserError(
            "expected features whose snippets have a known length, found "
            f"{f'unknown {unknown}' if unknown else 'rows that share a time evenly'}; put them "
            "into a store with the video's num_frames (gvvad_jax.StoreWriter) and score that"
        )
    rate = fps if fps_policy == "native" else float(fps_policy)
    starts_T = np.arange(num_rows) * snippet["stride"]
    times_Tx2 = np.stack([starts_T, starts_T + snippet["frames"]], axis=1) / rate
    return times_Tx2, max(1, round(times_Tx2[-1, 1] * fps))


def frame_scores(
    scores_T: np.ndarray, times_Tx2: np.ndarray, num_frames: int, fps: float
) -> np.ndarray:
    """Computes frame scores: the mean of the snippets that cover the middle of a frame's time.

    A frame that no snippet covers (in a gap between snippets, or after the last one) takes the
    score of the snippet nearest in time. A frame that one snippet covers has exactly its score.

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
    # Frames that the same snippets cover lie together; the mean is taken once for all of them.
    changes_F = np.diff(first_F, prepend=-1) | np.diff(last_F, prepend=-1)
    window_starts_W = np.flatnonzero(changes_F)
    first_W, last_W = first_F[window_starts_W], last_F[window_starts_W]
    count_W = last_W - first_W
    # Each window is added up by itself: differences of running sums would lose small scores, and
    # one snippet's score must come out as it is.
    padded = np.append(np.asarray(scores_T, np.float64), 0.0)
    sums_W = np.add.reduceat(padded, np.stack([first_W, last_W], axis=1).ravel())[::2]
    lengths_W = np.diff(np.append(window_starts_W, num_frames))
    count_F = np.repeat(count_W, lengths_W)
    means_F = np.repeat(sums_W / np.maximum(count_W, 1), lengths_W)
    before_F = np.clip(last_F - 1, 0, None)
    after_F = np.clip(first_F, None, len(scores_T) - 1)
    nearer_after_F = starts_T[after_F] - middles_F < middles_F - ends_T[before_F]
    nearest_F = np.where(nearer_after_F, after_F, before_F)
    return np.where(count_F > 0, means_F, np.asarray(scores_T)[nearest_F]).astype(np.float32)


def is_published(snippet: Mapping[str, Json], fps_policy: float | str) -> bool:
    """Tells whether the published protocol applies: snippets of 16 frames, every 16 frames.

    Other snippets, repeated 16 times, would not match the frames in time; nor would rows that share
    a video's time evenly. "unknown" values may match.

    Args:
      snippet: the manifest's {frames, stride, ...}.
      fps_policy: the manifest's policy; the protocol needs the video's own rate, "native".
    """
    if snippet.get("alignment") == "even":
        return False
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
