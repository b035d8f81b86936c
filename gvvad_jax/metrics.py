"""Measures of frame scores: AUC, AP, PR-AUC, abnormal-only AUC, false alarm rate, per class.

numpy only. Ties in the scores are handled exactly, as scikit-learn does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# A frame scored above this is an alarm (false alarm rate of the publications).
ALARM = 0.5


class Runs(NamedTuple):
    """Neighbouring frames of one score, which is what a snippet's frames are, taken together.

    All measures are the frames' exactly, and need sort no more than the runs.

    Attributes:
      scores_R: of each run.
      positives_R, frames_R: how many of its frames are positive, and how many it has.
    """

    scores_R: np.ndarray
    positives_R: np.ndarray
    frames_R: np.ndarray


def runs_of(scores_F: np.ndarray, labels_F: np.ndarray) -> Runs:
    """Scores and 0/1 labels of frames as runs; raises ValueError for NaN, which has no rank."""
    scores_F, labels_F = np.asarray(scores_F, np.float64), np.asarray(labels_F).astype(np.int64)
    if np.isnan(scores_F).any():
        raise ValueError("expected scores to rank, found NaN")
    if not len(scores_F):
        return Runs(scores_F, labels_F, labels_F)
    starts_R = np.append(0, np.flatnonzero(np.diff(scores_F)) + 1)
    frames_R = np.diff(np.append(starts_R, len(scores_F)))
    return Runs(scores_F[starts_R], np.add.reduceat(labels_F, starts_R), frames_R)


def joined(every: Sequence[Runs]) -> Runs:
    """The runs of several videos."""
    if not every:
        return runs_of(np.zeros(0), np.zeros(0))
    return Runs(*(np.concatenate(arrays) for arrays in zip(*every, strict=True)))


def _curve(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Counts of true and false positives at each threshold, from the highest score down."""
    order = np.argsort(-runs.scores_R, kind="stable")
    scores_R = runs.scores_R[order]
    # Equal scores share one threshold.
    last_of_tie = np.append(np.flatnonzero(np.diff(scores_R)), len(scores_R) - 1)
    true_positives = np.cumsum(runs.positives_R[order])[last_of_tie]
    return true_positives, np.cumsum(runs.frames_R[order])[last_of_tie] - true_positives


def roc_auc(scores_F: np.ndarray, labels_F: np.ndarray) -> float | None:
    """Area under the ROC curve; None where one of the two labels is absent.

    Args:
      scores_F: one score a frame.
      labels_F: 0/1 a frame.
    """
    return _roc_auc(runs_of(scores_F, labels_F))


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


def average_precision(scores_F: np.ndarray, labels_F: np.ndarray) -> float | None:
    """Sum of precision times the rise of recall; None without a positive frame."""
    return _average_precision(runs_of(scores_F, labels_F))


def _average_precision(runs: Runs) -> float | None:
    curve = _precision_recall(runs)
    return None if curve is None else float(np.sum(np.diff(curve[1]) * curve[0][1:]))


def pr_auc(scores_F: np.ndarray, labels_F: np.ndarray) -> float | None:
    """Trapezoid area under the precision-recall curve, which some publications call AP."""
    return _pr_auc(runs_of(scores_F, labels_F))


def _pr_auc(runs: Runs) -> float | None:
    curve = _precision_recall(runs)
    return None if curve is None else float(np.trapezoid(curve[0], curve[1]))


def false_alarm_rate(scores_F: np.ndarray, labels_F: np.ndarray) -> float | None:
    """Share of all normal frames scored above 0.5; None without a normal frame."""
    return _false_alarm_rate(runs_of(scores_F, labels_F))


def _false_alarm_rate(runs: Runs) -> float | None:
    normal_R = runs.frames_R - runs.positives_R
    return float(normal_R[runs.scores_R > ALARM].sum() / normal_R.sum()) if normal_R.any() else None


def frame_measures(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """All frame-level measures over a set of test videos.

    Args:
      scores: by video id, one score a frame.
      labels: by video id, 0/1 a frame; a video with a positive frame is an abnormal one.
      classes: class of the abnormal videos by id, where known.

    Returns:
      {auc, ap, pr_auc, auc_abnormal, far, per_class}; auc_abnormal is over the frames of abnormal
      videos only; per_class is each class's AUC against all normal test videos. A measure that
      isn't defined is None.
    """
    runs = {i: runs_of(scores[i], labels[i]) for i in scores}
    abnormal = [i for i in runs if runs[i].positives_R.any()]
    normal = [i for i in runs if not runs[i].positives_R.any()]
    of_class: dict[str, list[str]] = {}
    for i in abnormal:
        if classes and classes.get(i):
            of_class.setdefault(classes[i], []).append(i)

    def of(ids: Iterable[str]) -> Runs:
        return joined([runs[i] for i in ids])

    every = of(runs)
    return {
        "auc": _roc_auc(every),
        "ap": _average_precision(every),
        "pr_auc": _pr_auc(every),
        "auc_abnormal": _roc_auc(of(abnormal)),
        "far": _false_alarm_rate(every),
        "per_class": {c: _roc_auc(of(of_class[c] + normal)) for c in sorted(of_class)},
    }


def video_score(scores_T: np.ndarray, top_k: int) -> float:
    """A video's score: the mean of its k highest snippets, of all where it has fewer."""
    return float(np.mean(np.sort(scores_T)[-top_k:]))
