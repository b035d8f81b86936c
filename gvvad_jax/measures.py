"""What measures there are over a set of test videos, and what can be asked for. No JAX."""

import dataclasses
import math
from typing import Any, Literal, NotRequired, TypedDict, cast

from gvvad_jax import events, metrics
from gvvad_jax.command import UserError

# Why a model has no temperature and no threshold of its own.
NOT_CALIBRATED = (
    "the run hasn't calibrated this checkpoint: it is older, was imported, or isn't finished"
)


class Measures(TypedDict):
    """Measures over a set of test videos; None where a measure isn't defined.

    Those of frames and the rank measures of videos take scores that aren't calibrated.

    Attributes:
      auc: area under the ROC curve of all frames.
      ap: average precision of all frames.
      pr_auc: trapezoid area under the precision-recall curve, which some publications call AP.
      auc_abnormal: `auc` over the frames of abnormal videos only.
      far: false alarm rate, the share of normal frames scored above far_threshold.
      far_threshold: 0.5 unless another one is asked for.
      eer: equal error rate, where false alarms and misses are equally frequent.
      eer_threshold: where that is; frames that score at least as much are alarms.
      per_class: each class's AUC against all normal test videos.
      video_auc, video_ap: AUC and average precision of video scores (top-k mean).
      ece: expected calibration error of calibrated video scores; see calibration.expected_error.
      ece_uncalibrated: the same of the video scores as they are.
      threshold: the threshold of events, and the normal footage that it was set on; the content of
        events.Threshold.
      alarms_per_hour: alarms at that threshold an hour of the normal test videos.
      normal_hours: hours of the normal test videos.
      event_precision, event_recall, detection_delay: at that threshold; see
        event_measures.at_threshold.
      event_ap: average precision of events at each temporal IoU, and its mean; no threshold.
      event_map: the mean over classes of the same; see event_measures.mean_average_precision.
      alignment: the rule by which scores belong to frames.
      reasons: why a measure is None, by its name.
      videos: number of videos measured.
      frames: number of frames measured.
      missing: number of test videos that couldn't be encoded; absent where there are none.
      drift: shifts of videos beyond drift.BOUND, by id; absent where there are none.
      step: step of the checkpoint; present for the best checkpoints of a `Result` only.
      threshold_set_on: present where the threshold was set on the measured videos.
      wanted_far: {wanted, threshold, far, recall, set_on}: the threshold for the wanted false alarm
        rate, and what it gives; present if one was asked for.
      intervals: bootstrap intervals; see resampling.intervals. Present if draws were asked for.
      comparison: see resampling.compare; present if another detector was given.
      per_video: see curves.per_video; present if asked for.
    """

    auc: float | None
    ap: float | None
    pr_auc: float | None
    auc_abnormal: float | None
    far: float | None
    far_threshold: float
    eer: float | None
    eer_threshold: float | None
    per_class: dict[str, float | None]
    video_auc: float | None
    video_ap: float | None
    ece: float | None
    ece_uncalibrated: float | None
    threshold: dict[str, Any] | None
    alarms_per_hour: float | None
    normal_hours: float | None
    event_precision: dict[str, Any] | None
    event_recall: dict[str, Any] | None
    detection_delay: dict[str, Any] | None
    event_ap: dict[str, float] | None
    event_map: dict[str, float] | None
    alignment: str | None
    reasons: dict[str, str]
    videos: int
    frames: int
    missing: NotRequired[int]
    drift: NotRequired[dict[str, float]]
    step: NotRequired[int]
    threshold_set_on: NotRequired[str]
    wanted_far: NotRequired[dict[str, Any]]
    intervals: NotRequired[dict[str, Any]]
    comparison: NotRequired[dict[str, Any]]
    per_video: NotRequired[dict[str, dict[str, Any]]]


Alignment = Literal["auto", "time", "published"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What to measure beyond the defaults.

    Attributes:
      alignment: "time" gives a frame the mean of the snippets that cover it; "published" repeats
        each snippet's score 16 times and cuts or pads the labels to that. "auto" takes what a run's
        fidelity says, and bare scores as they are, one a frame.
      far_threshold: frames that score above it are alarms, for `far` and by video.
      wanted_far: a false alarm rate in [0, 1] to find the threshold for.
      bootstrap: draws of the bootstrap intervals; 0 for none.
      seed: of the draws.
      per_video: whether to measure each video by itself.
    """

    alignment: Alignment = "auto"
    far_threshold: float = metrics.ALARM
    wanted_far: float | None = None
    bootstrap: int = 0
    seed: int = 0
    per_video: bool = False

    def __post_init__(self) -> None:
        faults = {
            "alignment": (self.alignment in ("auto", "time", "published"), "auto, time, published"),
            "far_threshold": (math.isfinite(self.far_threshold), "a finite number"),
            "wanted_far": (self.wanted_far is None or 0 <= self.wanted_far <= 1, "a share in 0..1"),
            "bootstrap": (self.bootstrap >= 0, "a number of draws, or 0"),
            "seed": (self.seed >= 0, "a number from 0"),
        }
        for name, (fits, expected) in faults.items():
            if not fits:
                raise UserError(f"{name}: expected {expected}, found {getattr(self, name)!r}")


def describe(measures: Measures) -> str:
    """One line of the most important measures, for people."""
    between = measures.get("intervals", {})

    def show(title: str, name: str) -> str:
        value, bounds = cast(Any, measures)[name], between.get(name)
        shown = f"{title} {'-' if value is None else format(value, '.4f')}"
        return f"{shown} [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else shown

    named = [("AUC", "auc"), ("AP", "ap"), ("false alarms", "far")]
    if measures["video_auc"] is not None:
        named.append(("video AUC", "video_auc"))
    shown = ", ".join(show(title, name) for title, name in named)
    if (rate := measures["alarms_per_hour"]) is not None:
        shown += f", {events.three_digits(rate)} alarms an hour"
    difference = measures.get("comparison", {}).get("auc", {})
    if difference.get("interval"):
        low, high = difference["interval"]
        shown += (
            f", AUC less the other's {difference['difference']:+.4f} [{low:+.4f}, {high:+.4f}], "
            f"p {difference['p']:.3g}"
        )
    return f"{shown} ({measures['videos']} videos, {measures['frames']} frames)"
