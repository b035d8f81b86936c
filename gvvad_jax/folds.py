"""Repeated cross-validation by group: how videos are divided, and what the folds' results say."""

import math

import numpy as np
from scipy import special

CONFIDENCE = 0.95


def group_folds(
    labels_V: np.ndarray, groups_V: np.ndarray, folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Divides videos into folds of about equal shares of each label; groups stay whole.

    The largest groups are placed first, in random order among equals, each in the fold that keeps
    the folds' shares of the labels most even.

    Args:
      labels_V: 0 or 1 for each video.
      groups_V: name of each video's group.
      folds: number of folds.
      rng: decides the order of groups of a size.

    Returns:
      int [V], the fold of each video.
    """
    _, group_V = np.unique(groups_V, return_inverse=True)
    counts_Gx2 = np.zeros((group_V.max() + 1, 2))
    np.add.at(counts_Gx2, (group_V, labels_V), 1)
    shares_Gx2 = counts_Gx2 / np.maximum(counts_Gx2.sum(axis=0), 1)
    order = rng.permutation(len(counts_Gx2))
    order = order[np.argsort(-counts_Gx2[order].sum(axis=1), kind="stable")]
    fold_G = np.zeros(len(counts_Gx2), int)
    filled_Fx2 = np.zeros((folds, 2))
    for group in order:
        # What the sum of squared shares grows by, then the smaller fold.
        growth_F = np.round((filled_Fx2 * shares_Gx2[group]).sum(axis=1), 12)
        fold = min(range(folds), key=lambda f: (growth_F[f], round(filled_Fx2[f].sum(), 12)))
        fold_G[group] = fold
        filled_Fx2[fold] += shares_Gx2[group]
    return fold_G[group_V]


def corrected_interval(differences_J: np.ndarray, ratio: float) -> tuple[float, float] | None:
    """Confidence interval of the mean of J differences over repeated folds.

    Folds share training videos, so that their differences are correlated. The corrected resampled
    t interval therefore takes (1 / J + ratio) s^2 for the mean's variance (Nadeau and Bengio,
    "Inference for the Generalization Error", 2003; for repeated folds, Bouckaert and Frank, 2004).

    Args:
      differences_J: the differences.
      ratio: held-out videos over training videos of a fold.

    Returns:
      (low, high); None for fewer than two differences.
    """
    count = len(differences_J)
    if count < 2:
        return None
    mean, variance = float(np.mean(differences_J)), float(np.var(differences_J, ddof=1))
    # Student's t; scipy.stats takes half a second to import.
    quantile = float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    half = quantile * math.sqrt((1 / count + ratio) * variance)
    return mean - half, mean + half
