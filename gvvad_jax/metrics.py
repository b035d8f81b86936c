"""Measures of frame scores: AUC, AP, PR-AUC, abnormal-only AUC, false alarm rate, per class.

Ties in the scores are handled exactly, as scikit-learn does. All functions raise ValueError, with
the argument's name, for arrays of other shapes, labels other than 0 and 1, and NaN. numpy only.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# A frame scored above this is an alarm, as in publications, unless another threshold is given.
ALARM = 0.5


class Runs(NamedTuple):
    """Runs of neighbouring frames with equal scores, such as the frames of one snippet.

    Measures of runs equal those of their frames, but only the runs have to be sorted.

    Attributes:
      scores_R: score of each run.
      positives_R: number of positive frames in each run.
      frames_R: number of frames in each run.
    """

    scores_R: np.ndarray
    positives_R: np.ndarray
    frames_R: np.ndarray


def find_runs(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> Runs:
    """Joins neighbouring frames of equal scores into runs.

    Args:
      scores_F: one score for each frame.
      labels_F: 0 or 1 for each frame.
    """
    scores_F, labels_F = np.asarray(scores_F, np.float64), np.asarray(labels_F)
    if scores_F.ndim != 1 or scores_F.shape != labels_F.shape:
        raise ValueError(
            "scores_F, labels_F: expected one score and one label for each frame, found shapes "
            f"{list(scores_F.shape)} and {list(labels_F.shape)}"
        )
    if np.isnan(scores_F).any():
        raise ValueError("scores_F: expected numbers that can be ranked, found NaN")
    if not np.isin(labels_F, (0, 1)).all():
        raise ValueError("labels_F: expected labels 0 and 1, found others")
    labels_F = labels_F.astype(np.int64)
    if not len(scores_F):
        return Runs(scores_F, labels_F, labels_F)
    starts_R = np.append(0, np.flatnonzero(np.diff(scores_F)) + 1)
    frames_R = np.diff(np.append(starts_R, len(scores_F)))
    return Runs(scores_F[starts_R], np.add.reduceat(labels_F, starts_R), frames_R)


def concatenate(videos: Sequence[Runs]) -> Runs:
    """Concatenates the runs of several videos."""
    if not videos:
        return find_runs(np.zeros(0), np.zeros(0))
    return Runs(*(np.concatenate(arrays) for arrays in zip(*videos, strict=True)))


class Counts(NamedTuple):
    """What is above each threshold, from the highest score down.

    Attributes:
      thresholds_K: the distinct scores, falling.
      true_K: positive frames that score at least as much.
      false_K: negative frames that score at least as much.
    """

    thresholds_K: np.ndarray
    true_K: np.ndarray
    false_K: np.ndarray


def counts_of(runs: Runs) -> Counts:
    """Counts true and false positives at each threshold; equal scores share one threshold."""
    order = np.argsort(-runs.scores_R, kind="stable")
    scores_R = runs.scores_R[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(scores_R)), len(scores_R) - 1)
    true_K = np.cumsum(runs.positives_R[order])[last_of_tie]
    false_K = np.cumsum(runs.frames_R[order])[last_of_tie] - true_K
    return Counts(scores_R[last_of_tie], true_K, false_K)


def roc_auc(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> float | None:
    """Area under the ROC curve; None where one of the two labels is missing.

    Args:
      scores_F: one score for each frame.
      labels_F: 0 or 1 for each frame.
    """
    return auc_of_runs(find_runs(scores_F, labels_F))


def auc_of_runs(runs: Runs) -> float | None:
    """`roc_auc` of the runs' frames."""
    if runs.positives_R.sum() in (0, runs.frames_R.sum()):
        return None
    _, true_K, false_K = counts_of(runs)
    tpr = np.append(0, true_K) / true_K[-1]
    fpr = np.append(0, false_K) / false_K[-1]
    return float(np.trapezoid(tpr, fpr))


def _precision_recall(runs: Runs) -> tuple[np.ndarray, np.ndarray] | None:
    if not runs.positives_R.any():
        return None
    _, true_K, false_K = counts_of(runs)
    precision_K = true_K / (true_K + false_K)
    return np.append(1.0, precision_K), np.append(0.0, true_K / true_K[-1])


def average_precision(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> float | None:
    """Average precision, the sum of precision x rise of recall; None without a positive frame.

    See roc_auc for the arguments.
    """
    return ap_of_runs(find_runs(scores_F, labels_F))


def ap_of_runs(runs: Runs) -> float | None:
    """`average_precision` of the runs' frames."""
    curve = _precision_recall(runs)
    return None if curve is None else float(np.sum(np.diff(curve[1]) * curve[0][1:]))


def pr_auc(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> float | None:
    """Trapezoid area under the precision-recall curve; None without a positive frame.

    Some publications call it AP. See roc_auc for the arguments.
    """
    return pr_auc_of_runs(find_runs(scores_F, labels_F))


def pr_auc_of_runs(runs: Runs) -> float | None:
    """`pr_auc` of the runs' frames."""
    curve = _precision_recall(runs)
    return None if curve is None else float(np.trapezoid(curve[0], curve[1]))


def false_alarm_rate(
    scores_F: npt.ArrayLike, labels_F: npt.ArrayLike, threshold: float = ALARM
) -> float | None:
    """Share of the normal frames scored above the threshold; None without a normal frame.

    See roc_auc for the arguments.
    """
    return far_of_runs(find_runs(scores_F, labels_F), threshold)


def far_of_runs(runs: Runs, threshold: float = ALARM) -> float | None:
    """`false_alarm_rate` of the runs' frames."""
    normal_R = runs.frames_R - runs.positives_R
    above_R = runs.scores_R > threshold
    return float(normal_R[above_R].sum() / normal_R.sum()) if normal_R.any() else None


def recall_of_runs(runs: Runs, threshold: float = ALARM) -> float | None:
    """Share of the abnormal frames scored above the threshold; None without an abnormal frame."""
    positives_R = runs.positives_R
    above_R = runs.scores_R > threshold
    return float(positives_R[above_R].sum() / positives_R.sum()) if positives_R.any() else None


def threshold_for_far(runs: Runs, wanted: float) -> float | None:
    """The lowest score above which at most a wanted share of the normal frames lies.

    Args:
      runs: the frames that it is set on.
      wanted: the most false alarms, a share of the normal frames in [0, 1].

    Returns:
      One of the scores: frames above it are alarms. None without a normal frame.
    """
    if not 0 <= wanted <= 1:
        raise ValueError(f"wanted: expected a share of the normal frames in [0, 1], found {wanted}")
    normal_R = runs.frames_R - runs.positives_R
    if not normal_R.any():
        return None
    thresholds_K, _, false_K = counts_of(runs)
    # Above a score lies what is at the next higher one and above that.
    above_K = np.append(0, false_K[:-1])
    return float(thresholds_K[np.flatnonzero(above_K <= wanted * false_K[-1] + 1e-9)[-1]])


def equal_error_rate(runs: Runs) -> tuple[float, float] | None:
    """Where the ROC curve's false positive and false negative rates are equal.

    The curve is taken as straight between neighbouring points, as for its area.

    Returns:
      (the rate, the threshold of the point nearest to it, where frames that score at least as much
      are alarms); None where one of the two labels is missing.
    """
    if runs.positives_R.sum() in (0, runs.frames_R.sum()):
        return None
    thresholds_K, true_K, false_K = counts_of(runs)
    fpr = np.append(0, false_K) / false_K[-1]
    miss = 1 - np.append(0, true_K) / true_K[-1]
    # The difference rises from -1 to 1.
    gap = fpr - miss
    k = int(np.argmax(gap >= 0))
    share = gap[k - 1] / (gap[k - 1] - gap[k])
    nearest = k if share >= 0.5 or k == 1 else k - 1
    return float(fpr[k - 1] + share * (fpr[k] - fpr[k - 1])), float(thresholds_K[nearest - 1])


def split_abnormal(
    runs: Mapping[str, Runs], abnormal_ids: Collection[str] | None
) -> tuple[list[str], list[str]]:
    """Lists the abnormal and the normal videos.

    Args:
      runs: the videos by id.
      abnormal_ids: ids of the abnormal ones (default: those with a positive frame).
    """
    if abnormal_ids is None:
        abnormal_ids = {i for i in runs if runs[i].positives_R.any()}
    return [i for i in runs if i in abnormal_ids], [i for i in runs if i not in abnormal_ids]


def group_by_class(
    abnormal: Iterable[str], classes: Mapping[str, str | None]
) -> dict[str, list[str]]:
    """Lists the abnormal videos of each class whose class is known; classes are sorted."""
    by_class: dict[str, list[str]] = {}
    for i in abnormal:
        if name := classes.get(i):
            by_class.setdefault(name, []).append(i)
    return dict(sorted(by_class.items()))


def frame_measures(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None] | None = None,
    abnormal_ids: Collection[str] | None = None,
    threshold: float = ALARM,
) -> dict[str, Any]:
    """Computes all frame-level measures over a set of test videos.

    Args:
      scores: one score for each frame, by video id.
      labels: 0 or 1 for each frame, by video id.
      classes: class names of abnormal videos by id, where known.
      abnormal_ids: ids of the abnormal videos (default: those with a positive frame).
      threshold: of the false alarm rate.

    Returns:
      {auc, ap, pr_auc, auc_abnormal, far, eer, eer_threshold, per_class}; auc_abnormal is the AUC
      over the frames of abnormal videos only; eer is the equal error rate; per_class has each
      class's AUC against all normal test videos. A measure that isn't defined is None.

    Raises:
      ValueError: a video has no labels, or its arrays are wrong; see the module's docstring.
    """
    if unlabelled := [i for i in scores if i not in labels]:
        raise ValueError(f"labels: expected labels of every video, found none of {unlabelled[0]!r}")
    runs = {i: find_runs(scores[i], labels[i]) for i in scores}
    abnormal, normal = split_abnormal(runs, abnormal_ids)
    by_class = group_by_class(abnormal, classes or {})

    def select(ids: Iterable[str]) -> Runs:
        return concatenate([runs[i] for i in ids])

    every = select(runs)
    eer, eer_threshold = equal_error_rate(every) or (None, None)
    return {
        "auc": auc_of_runs(every),
        "ap": ap_of_runs(every),
        "pr_auc": pr_auc_of_runs(every),
        "auc_abnormal": auc_of_runs(select(abnormal)),
        "far": far_of_runs(every, threshold),
        "eer": eer,
        "eer_threshold": eer_threshold,
        "per_class": {c: auc_of_runs(select(ids + normal)) for c, ids in by_class.items()},
    }


def video_score(scores_T: np.ndarray, top_k: int) -> float:
    """Computes a video's score: the mean of its k highest snippet scores, or of all if fewer."""
    if np.ndim(scores_T) != 1 or not len(scores_T):
        raise ValueError(
            f"scores_T: expected at least one snippet's score, found {list(np.shape(scores_T))}"
        )
    if top_k < 1:
        raise ValueError(f"top_k: expected at least 1, found {top_k}")
    return float(np.mean(np.sort(scores_T)[-top_k:]))
