"""Fits a detector to a camera by its normal footage: statistics of features, then the threshold."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gvvad_jax import adaptation, events
from gvvad_jax.adaptation import Adaptation, Rate, Statistics
from gvvad_jax.command import UserError
from gvvad_jax.events import Threshold
from gvvad_jax.measures import NOT_CALIBRATED
from gvvad_jax.scoring import Model, VideoFeatures
from gvvad_jax.standardisation import Standardisation

# From so much footage on, the camera's own statistics replace training's: blends were worse on
# other cameras and no better on the same one. Less is of too few moments; see docs/calibration.md.
STATISTICS_SECONDS = 60.0
# Parts of the footage that are scored by the statistics of the others.
FOLDS = 5
# Less footage than this isn't a camera's.
LEAST_SECONDS, LEAST_SNIPPETS = 10.0, 10
# Other rates of alarms that thresholds are given for.
RATES = (0.08, 0.25, 1.0, 4.0, 12.0, 30.0)


@dataclasses.dataclass(frozen=True)
class Footage:
    """A camera's videos: features and times by id.

    Attributes:
      features: visual [T, N, D] and text [T, E] or None, as `Model.score` takes them.
      times: start and end of each snippet in seconds [T, 2].
    """

    features: Mapping[str, VideoFeatures]
    times: Mapping[str, np.ndarray]

    def visual(self, video_id: str) -> np.ndarray:
        """Returns a video's visual features."""
        value = self.features[video_id]
        return np.asarray(value[0] if isinstance(value, tuple) else value)

    @property
    def seconds(self) -> float:
        """Seconds that the snippets cover."""
        scores = {i: np.zeros(len(times_Tx2)) for i, times_Tx2 in self.times.items()}
        return float(events.join_footage(scores, self.times).seconds().sum())

    @property
    def snippets(self) -> int:
        """Number of snippets."""
        return sum(map(len, self.times.values()))


def parts(footage: Footage) -> dict[str, np.ndarray]:
    """Divides footage into parts that may be scored by the statistics of the others.

    Videos are whole in a part, of which there are up to FOLDS; of fewer videos than that, each is
    cut into so many pieces, because a statistic without a whole video would be of another place.

    Returns:
      The part of each snippet [T], by video id.
    """
    if len(footage.times) >= FOLDS:
        return {
            i: np.full(len(times_Tx2), number % FOLDS)
            for number, (i, times_Tx2) in enumerate(footage.times.items())
        }
    return {i: np.arange(len(t)) * FOLDS // max(1, len(t)) for i, t in footage.times.items()}


def statistics(
    footage: Footage, left_out: Mapping[str, np.ndarray] | None = None
) -> Standardisation:
    """Computes mean and deviation of a camera's visual features.

    Args:
      footage: the videos.
      left_out: which snippets don't count [T], by video id.
    """
    count, moments_2xD = 0, np.zeros((2, 1))
    for video_id in footage.features:
        rows_TxNxD = footage.visual(video_id)
        if left_out is not None:
            rows_TxNxD = rows_TxNxD[~left_out[video_id]]
        rows_MxD = np.asarray(rows_TxNxD, np.float64).reshape(-1, rows_TxNxD.shape[-1])
        count += len(rows_MxD)
        moments_2xD = moments_2xD + np.stack(
            [rows_MxD.sum(axis=0), np.square(rows_MxD).sum(axis=0)]
        )
    return Standardisation.from_moments(*moments_2xD / count)


def blended(own: Standardisation, training: Standardisation, share: float) -> Standardisation:
    """Blends statistics: means linearly, deviations geometrically; `share` is that of `own`."""
    if training.mean_D is None or training.std_D is None:
        return training
    assert own.mean_D is not None and own.std_D is not None
    mean_D = share * own.mean_D + (1 - share) * training.mean_D
    std_D = own.std_D**share * training.std_D ** (1 - share)
    return Standardisation(mean_D.astype(np.float32), std_D.astype(np.float32))


def cross_scores(model: Model, footage: Footage, share: float) -> dict[str, np.ndarray]:
    """Scores each part of footage by statistics of the other parts, blended with training's.

    Args:
      model: the detector, with the statistics of its training.
      footage: the camera's normal videos.
      share: see `blended`; 0 scores by training's.

    Returns:
      Scores [T] by video id.
    """
    if share == 0 or model.standard.mean_D is None:
        return model.score(footage.features)
    part_of = parts(footage)
    scores = {i: np.zeros(len(part_T), np.float32) for i, part_T in part_of.items()}
    for part in range(FOLDS):
        held_out = {i: part_T == part for i, part_T in part_of.items()}
        ids = [i for i, held_T in held_out.items() if held_T.any()]
        if not ids:
            continue
        own = statistics(footage, held_out)
        fitted = dataclasses.replace(model, standard=blended(own, model.standard, share))
        for i, scores_T in fitted.score({i: footage.features[i] for i in ids}).items():
            scores[i][held_out[i]] = scores_T[held_out[i]]
    return scores


def fit(model: Model, footage: Footage, alarms_per_hour: float) -> Adaptation:
    """Fits a detector to a camera.

    The threshold is set on scores of parts of the footage by statistics of the others: statistics
    of the same snippets would flatter them.

    Args:
      model: the detector as it was trained.
      footage: the camera's normal videos, not trained on.
      alarms_per_hour: the most alarms an hour of normal footage.

    Returns:
      The adaptation, without a correction.

    Raises:
      UserError: too little footage.
    """
    if footage.snippets < LEAST_SNIPPETS or footage.seconds < LEAST_SECONDS:
        raise UserError(
            f"normal footage: expected at least {LEAST_SECONDS:g} seconds and {LEAST_SNIPPETS} "
            f"snippets, found {footage.seconds:.1f} seconds and {footage.snippets}; give more"
        )
    is_enough = footage.seconds >= STATISTICS_SECONDS
    share = float(is_enough and model.standard.mean_D is not None)
    own = statistics(footage)
    scores = cross_scores(model, footage, share)
    threshold = events.threshold_for(alarms_per_hour, scores, footage.times)
    return Adaptation(
        format_version=1,
        run=adaptation.fingerprint(model),
        standardisation=Statistics.of(own) if share else None,
        features=Statistics.of(own),
        threshold=threshold,
        rates=rates(threshold, scores, footage.times),
        **_temperature(model, share),
        footage={
            "videos": len(footage.times),
            "snippets": footage.snippets,
            "hours": footage.seconds / 3600,
            "standardised_by": "the camera's statistics" if share else "the run's statistics",
        },
    )


def rates(
    threshold: Threshold, scores: Mapping[str, np.ndarray], times: Mapping[str, np.ndarray]
) -> list[Rate]:
    """Returns thresholds of RATES that are more alarms than the footage supports at least."""
    least = threshold.alarms_per_hour
    found = (
        [] if least is None or threshold.threshold is None else [Rate(threshold.threshold, least)]
    )
    for rate in RATES:
        if found and rate > found[0].alarms_per_hour:
            other = events.threshold_for(rate, scores, times)
            if other.threshold is not None and other.reason is None:
                found.append(Rate(other.threshold, rate))
    return found


def _temperature(model: Model, share: float) -> dict[str, Any]:
    known = model.calibration
    if share:
        return {
            "temperature": None,
            "temperature_reason": "the run's was fitted to scores by its own standardisation, and "
            "normal footage alone has no abnormal videos to fit another on; see rates",
        }
    if known is None:
        return {"temperature": None, "temperature_reason": NOT_CALIBRATED}
    return {
        "temperature": known.temperature,
        "temperature_reason": known.temperature_reason,
    }
