"""Plots of a measured detector: ROC and precision-recall curves, scores of test videos."""

import os
from typing import TYPE_CHECKING

import numpy as np

from gvvad_jax import curves, metrics
from gvvad_jax.scored import Scored
from gvvad_jax.store import folders

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Videos of the score plot, at most.
ABNORMAL, NORMAL = 8, 4
_DPI = 120


def write(
    folder: str | os.PathLike[str], test: Scored, threshold: float | None = None
) -> list[str]:
    """Writes roc.png, precision_recall.png and scores.png.

    Args:
      folder: an absent or empty folder, or one that this function wrote.
      test: test videos with labels of frames.
      threshold: of events, drawn into the scores; None draws none.

    Returns:
      The names of the files.

    Raises:
      UserError: the folder holds other files.
      ModuleNotFoundError: matplotlib isn't there.
    """
    from matplotlib.figure import Figure

    path = folders.claim(folder, "curves", flag="--curves")
    drawn = {"roc.png": _roc, "precision_recall.png": _precision_recall}
    scores_F = np.concatenate([test.scores[i] for i in test.abnormal])
    labels_F = np.concatenate([test.labels[i] for i in test.abnormal])
    for name, draw in drawn.items():
        figure = Figure(figsize=(5, 5), layout="constrained")
        draw(figure.subplots(), scores_F, labels_F)
        figure.savefig(path / name, dpi=_DPI)
    chosen = _spread(test.abnormal_ids, ABNORMAL) + _spread(test.normal_ids, NORMAL)
    figure = Figure(figsize=(9, 1.3 * len(chosen)), layout="constrained")
    highest = float(scores_F.max())
    for axes, video_id in zip(
        figure.subplots(len(chosen), squeeze=False)[:, 0], chosen, strict=True
    ):
        _scores(axes, test, video_id, threshold)
        axes.set_ylim(min(0.0, float(scores_F.min())), max(highest, threshold or highest) * 1.05)
    figure.savefig(path / "scores.png", dpi=_DPI)
    return [*drawn, "scores.png"]


def _spread(ids: list[str], most: int) -> list[str]:
    """At most so many videos, evenly spread over the list, so that none is picked by its score."""
    return [ids[k * len(ids) // most] for k in range(most)] if len(ids) > most else ids


def _roc(axes: "Axes", scores_F: np.ndarray, labels_F: np.ndarray) -> None:
    curve = curves.roc(scores_F, labels_F)
    _curve(axes, curve, "false positive rate", "true positive rate")
    area = metrics.roc_auc(scores_F, labels_F)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    axes.set_title("ROC: not defined" if area is None else f"ROC, all frames: AUC {area:.4f}")


def _precision_recall(axes: "Axes", scores_F: np.ndarray, labels_F: np.ndarray) -> None:
    _curve(axes, curves.precision_recall(scores_F, labels_F), "recall", "precision")
    area = metrics.average_precision(scores_F, labels_F)
    share = float(np.mean(labels_F))
    axes.axhline(share, color="0.7", linewidth=0.8, linestyle="--")
    axes.set_title(
        "precision-recall: not defined"
        if area is None
        else f"precision-recall, all frames: AP {area:.4f} (chance {share:.4f})"
    )


def _curve(axes: "Axes", curve: curves.Curve | None, x: str, y: str) -> None:
    if curve is not None:
        thin = curves.thin(curve)
        axes.plot(thin.x_K, thin.y_K, linewidth=1.5)
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")


def _scores(axes: "Axes", test: Scored, video_id: str, threshold: float | None) -> None:
    """One video's frame scores, its abnormal intervals shaded."""
    frames_K, scores_K = curves.score_curve(test.scores[video_id])
    axes.plot(frames_K, scores_K, linewidth=1.0)
    for start, end in curves.spans(test.labels[video_id]):
        axes.axvspan(start, end, color="tab:red", alpha=0.2, linewidth=0)
    if threshold is not None:
        axes.axhline(threshold, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, len(test.scores[video_id]))
    axes.set_title(_title(test, video_id), fontsize=8, loc="left")
    axes.tick_params(labelsize=7)


def _title(test: Scored, video_id: str) -> str:
    kind = "abnormal" if test.abnormal[video_id] else "normal"
    return f"{video_id} ({test.classes.get(video_id) or kind})"
