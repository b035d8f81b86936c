"""Calibration of a trained detector: the temperature of video scores, and the alarm threshold.

Both belong to one checkpoint; model.json keeps them. Imports no JAX.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from gvvad_jax import events
from gvvad_jax.command import UserError
from gvvad_jax.events import Threshold
from gvvad_jax.splits import Member
from gvvad_jax.store.reader import Store

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model

# Scores nearer to 0 or 1 than this count as this near.
_NEAREST = 1e-6
# Bins of equal width in [0, 1] of the expected calibration error.
BINS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was set for one checkpoint without training it further.

    Attributes:
      step: the checkpoint's step.
      temperature: divides the logit of a video score; None where validation gives none.
      temperature_reason: why there is no temperature; None where there is one.
      threshold: of events, on snippet scores, and the normal footage that it rests on.
    """

    step: int
    temperature: float | None
    temperature_reason: str | None
    threshold: Threshold

    def to_json(self) -> dict[str, Any]:
        """The content of result.json's calibration for one checkpoint."""
        return dataclasses.asdict(self)


class Calibrations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The calibration in model.json.

    Attributes:
      checkpoints: by kind of checkpoint (last, best_on_validation, best_on_test).
      normal_videos: digest of the rows of each normal validation video, by its id, so that another
        threshold can be set on the same footage.
    """

    checkpoints: dict[str, Calibration]
    normal_videos: dict[str, str]


def logits(scores_V: npt.ArrayLike) -> np.ndarray:
    """Returns the logits of scores in [0, 1], which are cut to 1e-6 from both ends."""
    clipped_V = np.clip(np.asarray(scores_V, np.float64), _NEAREST, 1 - _NEAREST)
    return np.log(clipped_V / (1 - clipped_V))


def apply(scores_V: npt.ArrayLike, temperature: float) -> np.ndarray:
    """Returns calibrated scores: the sigmoid of the scores' logits divided by the temperature."""
    return _sigmoid(logits(scores_V) / temperature)


def _sigmoid(logits_V: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(logits_V / 2))


def fit_temperature(
    scores_V: npt.ArrayLike, labels_V: npt.ArrayLike
) -> tuple[float | None, str | None]:
    """Fits the temperature of video scores on labelled videos (Guo et al., ICML 2017).

    It minimises the logistic loss. The targets are Platt's, (n + 1) / (n + 2) for n abnormal and 1
    / (n + 2) for n normal videos, without which the temperature of a few videos that are told apart
    without error would be 0.

    Args:
      scores_V: a score in [0, 1] for each video.
      labels_V: 0 or 1 for each video.

    Returns:
      (the temperature or None, why it is None or None).
    """
    labels_V = np.asarray(labels_V)
    normal, abnormal = int((labels_V == 0).sum()), int((labels_V == 1).sum())
    if not len(labels_V):
        return None, "no validation video"
    if not normal or not abnormal:
        label = 1 if abnormal else 0
        return None, f"all {len(labels_V)} validation videos have label {label}"
    targets_V = np.where(labels_V == 1, (abnormal + 1) / (abnormal + 2), 1 / (normal + 2))
    logits_V = logits(scores_V)

    def slope(inverse: float) -> float:
        # The derivative of the loss, which rises with the temperature's inverse.
        return float(np.dot(logits_V, _sigmoid(inverse * logits_V) - targets_V))

    if slope(0.0) >= 0:
        return None, "the validation videos' scores say nothing about their labels, or the opposite"
    low, high = 0.0, 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / high, None


def expected_error(chances_V: npt.ArrayLike, labels_V: npt.ArrayLike) -> float:
    """Computes the expected calibration error of the chance that videos are abnormal.

    Args:
      chances_V: a chance in [0, 1] for each video, at least one.
      labels_V: 0 or 1 for each video.

    Returns:
      The mean over videos of |mean chance - share of abnormal videos| of their bin; there are BINS
      of equal width, each without its upper end but for the last.
    """
    chances_V, labels_V = np.asarray(chances_V, np.float64), np.asarray(labels_V, np.float64)
    if not len(chances_V) or ((chances_V < 0) | (chances_V > 1)).any():
        raise ValueError("chances_V: expected one chance in [0, 1] or more, found others or none")
    bins_V = np.minimum((chances_V * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins_V, chances_V - labels_V)).sum() / len(chances_V))


def threshold_on(model: "Model", members: Sequence[Member], alarms_per_hour: float) -> Threshold:
    """Sets the threshold of events on normal videos; see events.threshold_for."""
    snippets = model.score_members(members) if members else {}
    times = {m.video.id: m.store.times(m.video.id) for m in members}
    return events.threshold_for(alarms_per_hour, snippets, times)


def describe(threshold: Threshold) -> str | None:
    """Says in one line that no event can ever be, because no score is above 1; else None."""
    if threshold.threshold is None or threshold.threshold < 1:
        return None
    why = ", because normal footage scores that high too" if threshold.hours else ""
    return (
        f"the threshold is {threshold.threshold:g}{why}; no score is above 1, so there will be no "
        "event: set a lower one (--threshold), or have another detector"
    )


def normal_of(members: Sequence[Member]) -> list[Member]:
    """Lists the normal videos."""
    return [member for member in members if not member.video.label]


def open_normal(
    model: "Model", path: str, trained: Collection[Member] = (), verify_rows: bool = True
) -> list[Member]:
    """Opens --normal_store, a store of normal footage that sets the threshold.

    Args:
      model: the detector; its weights aren't used.
      path: the store.
      trained: the training videos, if known.
      verify_rows: see Store.

    Raises:
      UserError: the store has no normal video, is of another encoder, or has videos that the
        detector is trained on.
    """
    store = Store(path, verify_rows=verify_rows)
    model.require(store.manifest, path)
    every = [Member(store, store.videos.videos[i]) for i in store.rows if i in store.videos.videos]
    normal = normal_of(every)
    if not normal:
        raise UserError(
            f"--normal_store={path}: expected normal videos (label 0), found none; encode footage "
            "without anything abnormal"
        )
    rows = {member.row.sha256: member for member in trained if member.row.sha256}
    for member in normal:
        if seen := rows.get(member.row.sha256):
            raise UserError(
                f"--normal_store={path}: expected footage that isn't trained on, found the rows of "
                f"{member.video.id!r} in the training video {seen.video.id!r} too; take other "
                "footage"
            )
    return normal


def calibrate(
    model: "Model", step: int, validation: Sequence[Member], normal: Sequence[Member]
) -> Calibration:
    """Calibrates a checkpoint.

    Args:
      model: the detector at that checkpoint; its config has the rate of alarms.
      step: the checkpoint's step.
      validation: the validation videos, for the temperature.
      normal: normal videos that it wasn't trained on, for the threshold.
    """
    chances = model.video_scores(model.score_members(validation)) if validation else {}
    labels_V = np.array([member.video.label for member in validation])
    temperature, reason = fit_temperature([chances[m.video.id] for m in validation], labels_V)
    return Calibration(
        step=step,
        temperature=temperature,
        temperature_reason=reason,
        threshold=threshold_on(model, normal, model.config.alarms_per_hour),
    )


def digests_of(normal: Sequence[Member]) -> dict[str, str]:
    """Returns the digests of videos' rows by id; empty where the store has none."""
    return {member.video.id: member.row.sha256 for member in normal}


def threshold_of(
    model: "Model",
    members: Sequence[Member],
    alarms_per_hour: float | None = None,
    normal_store: str = "",
) -> Threshold:
    """Returns the threshold to measure a trained detector at.

    Args:
      model: the detector.
      members: all videos of the store at hand, among which the normal validation videos may be:
        those of the run, or, where none are known, those of the split validation.
      alarms_per_hour: the rate to set it by (default: the run's).
      normal_store: path of normal footage to set it on instead.
    """
    rate = alarms_per_hour or model.config.alarms_per_hour
    if normal_store:
        return threshold_on(model, open_normal(model, normal_store), rate)
    calibrated = model.calibration
    if calibrated and calibrated.threshold.asked == rate:
        return calibrated.threshold
    normal, known = normal_of(members), model.normal_videos
    if known:
        held_out = [m for m in normal if known.get(m.video.id) == m.row.sha256]
    else:
        held_out = [m for m in normal if m.video.split == "validation"]
    if len(held_out) < len(known):
        return Threshold(
            threshold=None,
            alarms_per_hour=None,
            asked=rate,
            reason=f"the store has {len(held_out)} of the run's {len(known)} normal validation "
            "videos; give --normal_store",
        )
    return threshold_on(model, held_out, rate)
