"""Points of curves, and measures by class and by video: what plots and reports are made of.

ROC and precision-recall points are exact, one for each distinct score; `thin` keeps as many of them
as a picture needs. numpy only.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gvvad_jax import metrics

# Points that are enough for a picture of a curve.
ENOUGH = 500


class Curve(NamedTuple):
    """Points of a curve, from the highest threshold down.

    Attributes:
      x_K, y_K: the points; the first is the curve's beginning, above every score.
      thresholds_K: the threshold of each point; frames that score at least as much are alarms.
    """

    x_K: np.ndarray
    y_K: np.ndarray
    thresholds_K: np.ndarray


def roc(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> Curve | None:
    """Computes the ROC curve, as scikit-learn's roc_curve does without dropping points.

    Args:
      scores_F: one score for each frame; concatenate the frames of several videos.
      labels_F: 0 or 1 for each frame.

    Returns:
      x is the false positive rate and y the true positive rate; None where a label is missing.
    """
    runs = metrics.find_runs(scores_F, labels_F)
    if runs.positives_R.sum() in (0, runs.frames_R.sum()):
        return None
    thresholds_K, true_K, false_K = metrics.counts_of(runs)
    return Curve(
        np.append(0.0, false_K / false_K[-1]),
        np.append(0.0, true_K / true_K[-1]),
        np.append(np.inf, thresholds_K),
    )


def precision_recall(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> Curve | None:
    """Computes the precision-recall curve, from recall 0 to recall 1.

    Args:
      scores_F, labels_F: see `roc`.

    Returns:
      x is the recall and y the precision, which begins at 1; None without a positive frame.
    """
    runs = metrics.find_runs(scores_F, labels_F)
    if not runs.positives_R.any():
        return None
    thresholds_K, true_K, false_K = metrics.counts_of(runs)
    return Curve(
        np.append(0.0, true_K / true_K[-1]),
        np.append(1.0, true_K / (true_K + false_K)),
        np.append(np.inf, thresholds_K),
    )


def thin(curve: Curve, most: int = ENOUGH) -> Curve:
    """Keeps at most so many points, evenly spread along the curve, its two ends among them."""
    if len(curve.x_K) <= most:
        return curve
    length_K = np.cumsum(np.hypot(np.diff(curve.x_K, prepend=0), np.diff(curve.y_K, prepend=0)))
    wanted = np.linspace(length_K[0], length_K[-1], most)
    kept = np.unique(np.minimum(np.searchsorted(length_K, wanted), len(length_K) - 1))
    kept = np.union1d(kept[: most - 1], [len(length_K) - 1])
    return Curve(*(array[kept] for array in curve))


class Bin(NamedTuple):
    """Videos whose chance of being abnormal is about the same.

    Attributes:
      low, high: the bin, [low, high); the last one has its upper end too.
      videos: number of videos in it.
      mean: their mean chance; None without videos.
      abnormal: the share of abnormal ones among them; None without videos.
    """

    low: float
    high: float
    videos: int
    mean: float | None
    abnormal: float | None


def calibration_bins(
    chances_V: npt.ArrayLike, labels_V: npt.ArrayLike, bins: int = 10
) -> list[Bin]:
    """Compares the chance that videos are abnormal with how many are (a reliability diagram).

    The mean over videos of |mean - abnormal| is calibration.expected_error.

    Args:
      chances_V: a chance in [0, 1] for each video.
      labels_V: 0 or 1 for each video.
      bins: number of bins of equal width.
    """
    chances_V, labels_V = np.asarray(chances_V, np.float64), np.asarray(labels_V, np.float64)
    if ((chances_V < 0) | (chances_V > 1) | np.isnan(chances_V)).any():
        raise ValueError("chances_V: expected chances in [0, 1], found others")
    bins_V = np.minimum((chances_V * bins).astype(int), bins - 1)
    counts = np.bincount(bins_V, minlength=bins).tolist()
    chances = np.bincount(bins_V, chances_V, bins).tolist()
    abnormal = np.bincount(bins_V, labels_V, bins).tolist()
    return [
        Bin(k / bins, (k + 1) / bins, n, chances[k] / n if n else None,
            abnormal[k] / n if n else None)
        for k, n in enumerate(counts)
    ]  # fmt: skip


def per_class(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None],
    abnormal_ids: Collection[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measures each class's videos against all normal test videos.

    Args:
      scores: one score for each frame, by video id.
      labels: 0 or 1 for each frame, by video id.
      classes: class names of abnormal videos by id, where known.
      abnormal_ids: ids of the abnormal videos (default: those with a positive frame).

    Returns:
      {class: {videos, frames, abnormal_frames, auc, ap, auc_abnormal}}; frames are the class's own,
      and auc_abnormal is over them alone. A measure that isn't defined is None.
    """
    runs = {i: metrics.find_runs(scores[i], labels[i]) for i in scores}
    abnormal, normal = metrics.split_abnormal(runs, abnormal_ids)
    by_class = metrics.group_by_class(abnormal, classes)
    normal_runs = metrics.concatenate([runs[i] for i in normal])
    measures = {}
    for name, ids in by_class.items():
        own = metrics.concatenate([runs[i] for i in ids])
        against = metrics.concatenate([own, normal_runs])
        measures[name] = {
            "videos": len(ids),
            "frames": int(own.frames_R.sum()),
            "abnormal_frames": int(own.positives_R.sum()),
            "auc": metrics.auc_of_runs(against),
            "ap": metrics.ap_of_runs(against),
            "auc_abnormal": metrics.auc_of_runs(own),
        }
    return measures


def per_video(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None] | None = None,
    abnormal_ids: Collection[str] | None = None,
    threshold: float = metrics.ALARM,
) -> dict[str, dict[str, Any]]:
    """Measures each test video by itself.

    Args:
      scores, labels, classes, abnormal_ids: see `per_class`.
      threshold: frames that score above it are alarms.

    Returns:
      {id: {label, class, frames, abnormal_frames, auc, ap, far, recall, max, mean, mean_abnormal,
      mean_normal}}. far is the share of its normal frames that are alarms, recall that of its
      abnormal frames. A measure that isn't defined is None: a normal video has no AUC.
    """
    measures = {}
    abnormal, _ = metrics.split_abnormal(
        {i: metrics.find_runs(scores[i], labels[i]) for i in scores}, abnormal_ids
    )
    for i, scores_F in scores.items():
        positive_F = np.asarray(labels[i]) == 1
        scores_F = np.asarray(scores_F, np.float64)
        alarms_F = scores_F > threshold
        measures[i] = {
            "label": int(i in abnormal),
            "class": (classes or {}).get(i),
            "frames": len(scores_F),
            "abnormal_frames": int(positive_F.sum()),
            "auc": metrics.roc_auc(scores_F, positive_F),
            "ap": metrics.average_precision(scores_F, positive_F),
            "far": _mean(alarms_F[~positive_F]),
            "recall": _mean(alarms_F[positive_F]),
            "max": float(scores_F.max()) if len(scores_F) else None,
            "mean": _mean(scores_F),
            "mean_abnormal": _mean(scores_F[positive_F]),
            "mean_normal": _mean(scores_F[~positive_F]),
        }
    return measures


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def score_curve(scores_F: npt.ArrayLike, most: int = ENOUGH) -> tuple[np.ndarray, np.ndarray]:
    """Thins a video's scores for a picture, so that no peak is lost.

    Args:
      scores_F: one score for each frame.
      most: about the most points to keep; each of so many equal parts keeps its lowest and its
        highest frame.

    Returns:
      (int64 [K] frame numbers, rising; float64 [K] their scores).
    """
    scores_F = np.asarray(scores_F, np.float64)
    if len(scores_F) <= most:
        return np.arange(len(scores_F)), scores_F
    borders = np.linspace(0, len(scores_F), max(1, most // 2) + 1).astype(np.int64)
    kept = {0, len(scores_F) - 1}
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        part = scores_F[start:end]
        kept |= {start + int(part.argmin()), start + int(part.argmax())}
    frames_K = np.array(sorted(kept))
    return frames_K, scores_F[frames_K]


def spans(labels_F: npt.ArrayLike) -> list[tuple[int, int]]:
    """Lists the abnormal intervals of a video as [start, end) in frames, from its labels."""
    padded = np.concatenate([[0], np.asarray(labels_F, np.int64), [0]])
    borders = np.flatnonzero(np.diff(padded))
    return list(zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True))
