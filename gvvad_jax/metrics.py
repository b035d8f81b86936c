"""Measures of frame scores: AUC, AP, PR-AUC, abnormal-only AUC, false alarm rate, per class.

numpy only. Ties in the scores are handled exactly, as scikit-learn does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

# A frame scored above this is an alarm (false alarm rate of the publications).
ALARM = 0.5


def _curve(scores_F: np.ndarray, labels_F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of true and false positives at each threshold, from the highest score down."""
    order = np.argsort(-scores_F, kind="stable")
    scores_F, labels_F = scores_F[order], labels_F[order].astype(np.int64)
    # Equal scores share one threshold.
    last_of_tie = np.append(np.flatnonzero(np.diff(scores_F)), len(scores_F) - 1)
    true_positives = np.cumsum(labels_F)[last_of_tie]
    return true_positives, last_of_tie + 1 - true_positives


def roc_auc(scores_F: np.ndarray, labels_F: np.ndarray) -> float | None:
    """Area under the ROC curve; None where one of the two labels is absent.

    Args:
      scores_F: one score a frame.
      labels_F: 0/1 a frame.
    """
    scores_F, labels_F = np.asarray(scores_F, np.float64), np.asarray(labels_F)
    if not labels_F.any() or labels_F.all():
        return None
    true_positives, false_positives = _curve(scores_F, labels_F)
    tpr = np.append(0, true_positives) / true_positives[-1]
    fpr = np.append(0, false_positives) / false_positives[-1]
    return float(np.trapezoid(tpr, fpr))


def _precision_recall(
    scores_F: np.ndarray, labels_F: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    scores_F, labels_F = np.asarray(scores_F, np.float64), np.asarray(labels_F)
    if not labels_F.any():
        return None
    true_positives, false_positives = _curve(scores_F, labels_F)
    precision = true_positives / (true_positives + false_positives)
    return np.append(1.0, precision), np.append(0.0, true_positives / true_positives[-1])


def average_precision(scores_F: np.ndarray, labels_F: np.ndarray) -> float | None:
    """Sum of precision times the rise of recall; None without a positive frame."""
    curve = _precision_recall(scores_F, labels_F)
    return None if curve is None else float(np.sum(np.diff(curve[1]) * curve[0][1:]))


def pr_auc(scores_F: np.ndarray, labels_F: np.ndarray) -> float | None:
    """Trapezoid area under the precision-recall curve, which some publications call AP."""
    curve = _precision_recall(scores_F, labels_F)
    return None if curve is None else float(np.trapezoid(curve[0], curve[1]))


def false_alarm_rate(scores_F: np.ndarray, labels_F: np.ndarray) -> float | None:
    """Share of all normal frames scored above 0.5; None without a normal frame."""
    normal_F = np.asarray(scores_F)[np.asarray(labels_F) == 0]
    return float(np.mean(normal_F > ALARM)) if len(normal_F) else None


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
    abnormal = [i for i in scores if np.any(labels[i])]
    normal = [i for i in scores if not np.any(labels[i])]

    def joined(ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if not ids:
            return np.zeros(0), np.zeros(0)
        return np.concatenate([scores[i] for i in ids]), np.concatenate([labels[i] for i in ids])

    of_class: dict[str, list[str]] = {}
    for i in abnormal:
        if classes and classes.get(i):
            of_class.setdefault(classes[i], []).append(i)
    every = joined(list(scores))
    return {
        "auc": roc_auc(*every),
        "ap": average_precision(*every),
        "pr_auc": pr_auc(*every),
        "auc_abnormal": roc_auc(*joined(abnormal)),
        "far": false_alarm_rate(*every),
        "per_class": {c: roc_auc(*joined(of_class[c] + normal)) for c in sorted(of_class)},
    }


def video_score(scores_T: np.ndarray, top_k: int) -> float:
    """A video's score: the mean of its k highest snippets, of all where it has fewer."""
    return float(np.mean(np.sort(scores_T)[-top_k:]))
