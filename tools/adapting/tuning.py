"""Learns from feedback on alarms, and measures on held-out videos what that gains.

A logistic regression on the encoder's standardised features adds to the logits of the trained
detector's scores, and an L2 penalty holds what it adds near zero. The detector itself stays, so a
few alarms suffice and it takes seconds on a CPU. Tuning the detector's last layer instead gained
nothing on held-out videos: what reaches that layer is little more than the score.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gvvad_jax import calibration, folds, metrics, regression
from gvvad_jax.adaptation import Correction
from gvvad_jax.command import UserError
from gvvad_jax.scoring import Model
from tools.adapting.camera import Footage

# Inverse penalty, where rows have a mean squared norm of 1; see docs/calibration.md.
STRENGTH = 100.0
# Parts of the videos with feedback that are held out in turn; of fewer videos, one at a time.
FOLDS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Snippets:
    """Snippets with feedback: M of them.

    Attributes:
      rows_MxD: standardised features, the mean over crops.
      logits_M: of the trained detector's scores.
      labels_M: 0 or 1.
      videos_M: number of each one's video.
    """

    rows_MxD: np.ndarray
    logits_M: np.ndarray
    labels_M: np.ndarray
    videos_M: np.ndarray

    def __getitem__(self, chosen_M: np.ndarray) -> "Snippets":
        arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Snippets(*(array[chosen_M] for array in arrays))


def gather(model: Model, footage: Footage, labels: Mapping[str, np.ndarray]) -> Snippets:
    """Returns the snippets with feedback.

    Args:
      model: the detector, fitted to the camera.
      footage: the videos with feedback.
      labels: 0, 1, or -1 for none [T], by video.
    """
    scores = model.score({i: footage.features[i] for i in labels})
    parts: list[tuple[np.ndarray, ...]] = []
    for number, (i, labels_T) in enumerate(labels.items()):
        with_T = labels_T >= 0
        rows_SxNxD = model.standard.apply(footage.visual(i)[with_T]).astype(np.float64)
        logits_S = calibration.logits(scores[i][with_T])
        videos_S = np.full(len(logits_S), number)
        parts.append((rows_SxNxD.mean(axis=1), logits_S, labels_T[with_T], videos_S))
    return Snippets(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def learn(snippets: Snippets, strength: float = STRENGTH) -> Correction:
    """Learns a correction; both labels count half, however many snippets each has.

    Args:
      snippets: with both labels.
      strength: inverse of the penalty.
    """
    centre_D = snippets.rows_MxD.mean(axis=0)
    rows_MxD = snippets.rows_MxD - centre_D
    size = math.sqrt(np.square(rows_MxD).sum(axis=1).mean()) or 1.0
    weights_D, bias = regression.fit_logistic(
        rows_MxD / size, snippets.labels_M, strength, offsets_V=snippets.logits_M
    )
    weights_D = weights_D / size
    return Correction(weights_D.astype(np.float32), bias - float(centre_D @ weights_D))


def move(snippets: Snippets) -> Correction:
    """Returns the correction that adds the same to every logit, as moving the threshold does."""
    nothing_Mx1 = np.zeros((len(snippets.labels_M), 1))
    _, bias = regression.fit_logistic(nothing_Mx1, snippets.labels_M, offsets_V=snippets.logits_M)
    return Correction(np.zeros(snippets.rows_MxD.shape[1], np.float32), bias)


def scores(correction: Correction | None, snippets: Snippets) -> np.ndarray:
    """Returns the scores [M] with a correction; as trained without one."""
    logits_M = snippets.logits_M
    if correction:
        logits_M = logits_M + snippets.rows_MxD @ correction.weights_D + correction.bias
    return 0.5 * (1 + np.tanh(logits_M / 2))


def measure(scores_M: np.ndarray, labels_M: np.ndarray) -> dict[str, float]:
    """Returns AUC and cross-entropy of scores, in which both labels count half."""
    clipped_M = np.clip(scores_M, 1e-6, 1 - 1e-6)
    losses_M = -np.log(np.where(labels_M == 1, clipped_M, 1 - clipped_M))
    auc = metrics.roc_auc(scores_M, labels_M)
    assert auc is not None
    by_label = [float(losses_M[labels_M == label].mean()) for label in (0, 1)]
    return {"auc": auc, "cross_entropy": sum(by_label) / 2}


def require_both(path: str, snippets: Snippets) -> None:
    """Raises UserError unless each label is in two videos, so that one can be held out."""
    for label, name in ((0, "false alarms"), (1, "true events")):
        videos = len(np.unique(snippets.videos_M[snippets.labels_M == label]))
        if videos < 2:
            raise UserError(
                f"{path}: expected {name} (label {label}) in two videos or more, so that one can "
                f"be held out, found {videos}; add some: of one label alone, the best score is the "
                "same everywhere"
            )


def held_out(snippets: Snippets, strength: float = STRENGTH) -> dict[str, Any]:
    """Measures what feedback gains on videos that it isn't of, by cross-validation over videos.

    Args:
      snippets: with each label in two videos or more.
      strength: inverse of the penalty.

    Returns:
      {before, moved, after: `measure` as trained, with `move`, which is the trivial way to have
      fewer false alarms, and with `learn`; videos, snippets; better: whether the last has the
      highest AUC and the lowest cross-entropy}.
    """
    numbers_U, first_U = np.unique(snippets.videos_M, return_index=True)
    # A video's label is that of its first snippet, which only spreads labels among folds.
    fold_U = folds.group_folds(
        snippets.labels_M[first_U], numbers_U, min(FOLDS, len(numbers_U)), np.random.default_rng(0)
    )
    fold_M = fold_U[np.searchsorted(numbers_U, snippets.videos_M)]
    results = {name: scores(None, snippets) for name in ("before", "moved", "after")}
    for fold in range(fold_U.max() + 1):
        training, held_M = snippets[fold_M != fold], fold_M == fold
        if len(np.unique(training.labels_M)) == 2:
            results["moved"][held_M] = scores(move(training), snippets[held_M])
            results["after"][held_M] = scores(learn(training, strength), snippets[held_M])
    measured = {name: measure(scores_M, snippets.labels_M) for name, scores_M in results.items()}
    others = [measured["before"], measured["moved"]]
    better = measured["after"]["auc"] > max(each["auc"] for each in others) and measured["after"][
        "cross_entropy"
    ] < min(each["cross_entropy"] for each in others)
    counts = {"videos": len(numbers_U), "snippets": len(fold_M)}
    return {**counts, **measured, "better": better}


def describe(found: Mapping[str, Any]) -> str:
    """Returns the measures of `held_out` as a table for people."""
    lines = [
        f"feedback on {found['snippets']} snippets of {found['videos']} videos, held out in turn:",
        f"{'':24s}    AUC  cross-entropy",
    ]
    names = {"before": "as trained", "moved": "all scores moved alike", "after": "with feedback"}
    for name, said in names.items():
        each = found[name]
        lines.append(f"{said:24s}  {each['auc']:.3f}  {each['cross_entropy']:13.3f}")
    return "\n".join(lines)
