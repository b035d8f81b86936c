"""Tunes a detector's last layer on feedback, and measures on held-out videos what that gains.

The tuned layer is a logistic regression on the layer's inputs that starts from the trained one: it
adds to the trained logits, and an L2 penalty holds what it adds near zero. Nothing else moves, so a
few alarms suffice and it takes seconds on a CPU.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax import folds, heads, metrics, regression
from gvvad_jax.command import UserError
from gvvad_jax.scoring import Model
from tools.adapting.camera import Footage

# Inverse penalty, where rows have a mean squared norm of 1; see docs/calibration.md.
STRENGTH = 10.0
# Parts of the videos with feedback that are held out in turn; of fewer videos, one at a time.
FOLDS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Snippets:
    """Snippets with feedback: M of them.

    Attributes:
      inputs_MxNxC: what the last layer gets of each, for N crops.
      labels_M: 0 or 1.
      videos_M: number of each one's video.
    """

    inputs_MxNxC: np.ndarray
    labels_M: np.ndarray
    videos_M: np.ndarray

    def __getitem__(self, chosen_M: np.ndarray) -> "Snippets":
        return Snippets(
            self.inputs_MxNxC[chosen_M], self.labels_M[chosen_M], self.videos_M[chosen_M]
        )


Layer = tuple[np.ndarray, np.ndarray]


def gather(model: Model, footage: Footage, labels: Mapping[str, np.ndarray]) -> Snippets:
    """Returns the snippets with feedback.

    Args:
      model: the detector.
      footage: the videos with feedback.
      labels: 0, 1, or -1 for none [T], by video.
    """
    inputs, kept, videos = [], [], []
    for number, (video_id, labels_T) in enumerate(labels.items()):
        value = footage.features[video_id]
        visual, text = value if isinstance(value, tuple) else (value, None)
        with_T = labels_T >= 0
        inputs.append(heads.inputs(model, np.asarray(visual), text)[with_T])
        kept.append(labels_T[with_T])
        videos.append(np.full(int(with_T.sum()), number))
    return Snippets(*(np.concatenate(parts) for parts in (inputs, kept, videos)))


def tune(layer: Layer, snippets: Snippets, strength: float = STRENGTH) -> Layer:
    """Tunes a last layer; both labels count half, however many snippets each has.

    Args:
      layer: kernel [C, 1] and bias [1].
      snippets: with both labels.
      strength: inverse of the penalty.
    """
    kernel_Cx1, bias_1 = layer
    crops = snippets.inputs_MxNxC.shape[1]
    rows_RxC = snippets.inputs_MxNxC.reshape(-1, kernel_Cx1.shape[0])
    labels_R = np.repeat(snippets.labels_M, crops)
    centre_C = rows_RxC.mean(axis=0)
    size = math.sqrt(np.square(rows_RxC - centre_C).sum(axis=1).mean()) or 1.0
    logits_R = (rows_RxC @ kernel_Cx1 + bias_1)[:, 0]
    added_C, shift = regression.fit_logistic(
        (rows_RxC - centre_C) / size, labels_R, strength, offsets_V=logits_R
    )
    added_C = added_C / size
    kernel = (kernel_Cx1 + added_C[:, None]).astype(kernel_Cx1.dtype)
    bias = (bias_1 + shift - centre_C @ added_C).astype(bias_1.dtype)
    return kernel, bias


def moved(layer: Layer, snippets: Snippets) -> Layer:
    """Returns a last layer whose bias alone is tuned, as moving the threshold would do."""
    kernel_Cx1, bias_1 = layer
    logits_M = (snippets.inputs_MxNxC @ kernel_Cx1 + bias_1)[..., 0].mean(axis=1)
    nothing_Mx1 = np.zeros((len(logits_M), 1))
    _, shift = regression.fit_logistic(nothing_Mx1, snippets.labels_M, offsets_V=logits_M)
    return kernel_Cx1, (bias_1 + shift).astype(bias_1.dtype)


def scores(layer: Layer, snippets: Snippets) -> np.ndarray:
    """Returns the scores [M] that a last layer gives."""
    kernel_Cx1, bias_1 = layer
    logits_MxN = (snippets.inputs_MxNxC @ kernel_Cx1 + bias_1)[..., 0]
    return np.mean(0.5 * (1 + np.tanh(logits_MxN / 2)), axis=1)


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


def held_out(layer: Layer, snippets: Snippets, strength: float = STRENGTH) -> dict[str, Any]:
    """Measures what tuning gains on videos that it hasn't seen, by cross-validation over videos.

    Args:
      layer: the trained last layer.
      snippets: with each label in two videos or more.
      strength: inverse of the penalty.

    Returns:
      {before, moved, after: `measure` of the trained layer, of one whose bias alone moved, which is
      the trivial way to have fewer false alarms, and of the tuned one; videos, snippets; better:
      whether the tuned one has the highest AUC and the lowest cross-entropy}.
    """
    numbers_U, first_U = np.unique(snippets.videos_M, return_index=True)
    # A video's label is that of its first snippet, which only spreads labels among folds.
    fold_U = folds.group_folds(
        snippets.labels_M[first_U], numbers_U, min(FOLDS, len(numbers_U)), np.random.default_rng(0)
    )
    fold_M = fold_U[np.searchsorted(numbers_U, snippets.videos_M)]
    results = {"before": scores(layer, snippets)}
    results |= {name: np.zeros(len(fold_M)) for name in ("moved", "after")}
    for fold in range(fold_U.max() + 1):
        training, held = snippets[fold_M != fold], snippets[fold_M == fold]
        if len(np.unique(training.labels_M)) == 2:
            layers = {"moved": moved(layer, training), "after": tune(layer, training, strength)}
        else:
            layers = dict.fromkeys(("moved", "after"), layer)
        for name, each in layers.items():
            results[name][fold_M == fold] = scores(each, held)
    measured = {name: measure(scores_M, snippets.labels_M) for name, scores_M in results.items()}
    others: Sequence[dict[str, float]] = [measured["before"], measured["moved"]]
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
    names = {"before": "as trained", "moved": "its bias alone moved", "after": "tuned"}
    for name, said in names.items():
        each = found[name]
        lines.append(f"{said:24s}  {each['auc']:.3f}  {each['cross_entropy']:13.3f}")
    return "\n".join(lines)
