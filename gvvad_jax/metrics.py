"""Measures of frame scores: AUC, AP, PR-AUC, abnormal-only AUC, false alarm rate, per class.

Ties in the scores are handled exactly, as scikit-learn does. All functions raise ValueError, with
the argument's name, for arrays of other shapes, labels other than 0 and 1, and NaN. numpy only.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# A frame scored above this is an alarm, as in publications.
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


def _curve(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Counts true and false positives at each threshold, from the highest score down."""
    order = np.argsort(-runs.scores_R, kind="stable")
    scores_R = runs.scores_R[order]
    # Equal scores share one threshold.
    last_of_tie = np.append(np.flatnonzero(np.diff(scores_R)), len(scores_R) - 1)
    true_positives = np.cumsum(runs.positives_R[order])[last_of_tie]
    return true_positives, np.cumsum(runs.frames_R[order])[last_of_tie] - true_positives


def roc_auc(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> float | None:
    """Area under the ROC curve; None where one of the two labels is missing.

    Args:
      scores_F: one score for each frame.
      labels_F: 0 or 1 for each frame.
    """
    return _roc_auc(find_runs(scores_F, labels_F))


def _roc_auc(runs: Runs) -> float | None:
    if runs.positives_R.sum() in (0, runs.frames_R.sum()):
        return None
    true_positives, false_positives = _curve(runs)
    tpr = np.append(0, true_positives) / true_positives[-1]
    fpr = np.append(0, false_positives) / false_positives[-1]
    return float(np.trapezoid(tpr, fpr))


def _precision_recall(runs: Runs) -> tuple[np.ndarray, np.ndarray] | None:
    if not runs.positives_R.any():
        return None
    true_positives, false_positives = _curve(runs)
    precision = true_positives / (true_positives + false_positives)
    return np.append(1.0, precision), np.append(0.0, true_positives / true_positives[-1])


def average_precision(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> float | None:
    """Average precision, the sum of precision x rise of recall; None without a positive frame.

    See roc_auc for the arguments.
    """
    return _average_precision(find_runs(scores_F, labels_F))


def _average_precision(runs: Runs) -> float | None:
    curve = _precision_recall(runs)
    return None if curve is None else float(np.sum(np.diff(curve[1]) * curve[0][1:]))


def pr_auc(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> float | None:
    """Trapezoid area under the precision-recall curve; None without a positive frame.

    Some publications call it AP. See roc_auc for the arguments.
    """
    return _pr_auc(find_runs(scores_F, labels_F))


def _pr_auc(runs: Runs) -> float | None:
    curve = _precision_recall(runs)
    return None if curve is None else float(np.trapezoid(curve[0], curve[1]))


def false_alarm_rate(scores_F: npt.ArrayLike, labels_F: npt.ArrayLike) -> float | None:
    """Share of the normal frames scored above 0.5; None without a normal frame.

    See roc_auc for the arguments.
    """
    return _false_alarm_rate(find_runs(scores_F, labels_F))


def _false_alarm_rate(runs: Runs) -> float | None:
    normal_R = runs.frames_R - runs.positives_R
    return float(normal_R[runs.scores_R > ALARM].sum() / normal_R.sum()) if normal_R.any() else None


def frame_measures(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None] | None = None,
    abnormal_ids: Collection[str] | None = None,
) -> dict[str, Any]:
    """Computes all frame-level measures over a set of test videos.

    Args:
      scores: one score for each frame, by video id.
      labels: 0 or 1 for each frame, by video id.
      classes: class names of abnormal videos by id, where known.
      abnormal_ids: ids of the abnormal videos (default: those with a positive frame).

    Returns:
      {auc, ap, pr_auc, auc_abnormal, far, per_class}; auc_abnormal is the AUC over the frames of
      abnormal videos only; per_class has each class's AUC against all normal test videos. A measure
      that isn't defined is None.

    Raises:
      ValueError: a video has no labels, or its arrays are wrong; see the module's docstring.
    """
    if unlabelled := [i for i in scores if i not in labels]:
        raise ValueError(f"labels: expected labels of every video, found none of {unlabelled[0]!r}")
    runs = {i: find_runs(scores[i], labels[i]) for i in scores}
    if abnormal_ids is None:
        abnormal_ids = {i for i in runs if runs[i].positives_R.any()}
    abnormal = [i for i in runs if i in abnormal_ids]
    normal = [i for i in runs if i not in abnormal_ids]
    by_class: dict[str, list[str]] = {}
    for i in abnormal:
        if name := (classes or {}).get(i):
            by_class.setdefault(name, []).append(i)

    def select(ids: Iterable[str]) -> Runs:
        return concatenate([runs[i] for i in ids])

    every = select(runs)
    return {
        "auc": _roc_auc(every),
        "ap": _average_precision(every),
        "pr_auc": _pr_auc(every),
        "auc_abnormal": _roc_auc(select(abnormal)),
        "far": _false_alarm_rate(every),
        "per_class": {c: _roc_auc(select(by_class[c] + normal)) for c in sorted(by_class)},
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
