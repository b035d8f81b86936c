"""Test videos whose scores are aligned with their labels, and their measures. No JAX.

The scores may be a run's (model_measures.py) or bare ones (evaluation.py).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from gvvad_jax import calibration, curves, event_measures, events, metrics, resampling
from gvvad_jax.command import UserError
from gvvad_jax.measures import MeasureOptions, Measures

# Draws of a comparison for which none are asked.
DRAWS = 2000
# The normal frames or videos that are measured set a threshold that suits them better than others.
ON_THESE = "these test videos' own normal footage: on other footage it gives more alarms"
_OF_FRAMES = ("auc", "ap", "pr_auc", "auc_abnormal", "far", "eer", "eer_threshold")
_OF_VIDEOS = ("video_auc", "video_ap", "ece", "ece_uncalibrated")
AT_THRESHOLD = ("event_precision", "event_recall", "detection_delay")
_OF_EVENTS = (
    "threshold", "alarms_per_hour", "normal_hours", *AT_THRESHOLD, "event_ap", "event_map",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """Test videos with their scores, aligned with their labels; all mappings are by video id.

    Attributes:
      abnormal: whether each video is abnormal; its keys are the videos, in order.
      scores, labels: one score and 0 or 1 for each frame [F]; empty where unlabelled says why.
      alignment: the rule by which scores belong to frames.
      classes: class names, where known.
      groups: what a video shares with others; its own id where it is absent.
      snippets, times: scores [T] that events are found in, and their start and end in seconds
        [T, 2]; None where no frame rate is known.
      intervals: abnormal intervals in seconds; None where snippets are, or without labels.
      video_scores: one a video; None where there are none.
      chances: calibrated video scores; None where there are none.
      unlabelled: why there are no labels of frames; None where there are.
    """

    abnormal: Mapping[str, bool]
    scores: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    alignment: str | None
    classes: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    snippets: Mapping[str, np.ndarray] | None = None
    times: Mapping[str, np.ndarray] | None = None
    intervals: event_measures.Intervals | None = None
    video_scores: Mapping[str, float] | None = None
    chances: Mapping[str, float] | None = None
    unlabelled: str | None = None

    @property
    def abnormal_ids(self) -> list[str]:
        """Ids of the abnormal videos."""
        return [i for i, abnormal in self.abnormal.items() if abnormal]

    @property
    def normal_ids(self) -> list[str]:
        """Ids of the normal videos."""
        return [i for i, abnormal in self.abnormal.items() if not abnormal]

    @property
    def units(self) -> list[str]:
        """The group of each video, which the bootstrap draws."""
        return [self.groups.get(i, i) for i in self.abnormal]

    def normal_footage(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Snippet scores and times of the normal videos; see `snippets`."""
        assert self.snippets is not None and self.times is not None
        normal = self.normal_ids
        return {i: self.snippets[i] for i in normal}, {i: self.times[i] for i in normal}

    def events_at(self, threshold: float) -> dict[str, list[events.Event]]:
        """The events of each video at a threshold."""
        assert self.snippets is not None and self.times is not None
        rule = events.Rule(threshold=threshold)
        return {
            i: events.find_events(self.snippets[i], rule, times_Tx2=self.times[i], video=i)
            for i in self.abnormal
        }


def measure(
    scored: Scored,
    options: MeasureOptions | None = None,
    threshold: events.Threshold | None = None,
    reasons: Mapping[str, str] | None = None,
    other: Scored | None = None,
) -> Measures:
    """Measures test videos.

    Args:
      scored: the videos.
      options: what to measure beyond the defaults.
      threshold: the threshold of events.
      reasons: why a measure that only the caller can give is missing, by its name.
      other: another detector's scores of the same videos to compare with.

    Raises:
      UserError: the other's videos or labels differ.
    """
    options, reasons = options or MeasureOptions(), dict(reasons or {})
    measures = cast(
        Measures,
        dict.fromkeys((*_OF_FRAMES, *_OF_VIDEOS, *_OF_EVENTS))
        | {"far_threshold": options.far_threshold, "per_class": {}, "alignment": scored.alignment}
        | {"reasons": {}, "videos": len(scored.abnormal)}
        | {"frames": sum(map(len, scored.scores.values()))},
    )
    _of_frames(measures, scored, options)
    _of_videos(measures, scored)
    _of_events(measures, scored, threshold)
    if options.bootstrap and not scored.unlabelled:
        measures["intervals"] = resampling.intervals(
            _sample(scored, options), scored.units, options.bootstrap, options.seed
        )
    if other is not None:
        measures["comparison"] = compare(scored, other, options)
    if options.per_video and not scored.unlabelled:
        measures["per_video"] = curves.per_video(
            scored.scores, scored.labels, scored.classes, scored.abnormal_ids, options.far_threshold
        )
    known = measures["reasons"] | reasons
    measures["reasons"] = {
        k: known[k] for k in measures if cast(Any, measures)[k] is None and k in known
    }
    return measures


def _of_frames(measures: Measures, scored: Scored, options: MeasureOptions) -> None:
    """Adds the measures of frames, and why they may not be defined."""
    if scored.unlabelled:
        measures["reasons"] |= dict.fromkeys((*_OF_FRAMES, "alignment"), scored.unlabelled)
        return
    present = {v for labels_F in scored.labels.values() for v in np.unique(labels_F).tolist()}
    reasons = {"auc_abnormal": "the abnormal test videos' frames have one label, or there are none"}
    if 1 not in present:
        without = "no abnormal frame in the test videos"
        reasons |= dict.fromkeys((name for name in _OF_FRAMES if name != "far"), without)
    if 0 not in present:
        names = ("auc", "auc_abnormal", "far", "eer", "eer_threshold")
        reasons |= dict.fromkeys(names, "no normal frame in the test videos")
    measures["reasons"] |= reasons
    measures.update(
        cast(
            Measures,
            metrics.frame_measures(
                scored.scores,
                scored.labels,
                scored.classes,
                scored.abnormal_ids,
                options.far_threshold,
            ),
        )
    )
    if options.wanted_far is not None:
        runs = metrics.concatenate(list(_runs(scored).values()))
        value = metrics.threshold_for_far(runs, options.wanted_far)
        measures["wanted_far"] = {
            "wanted": options.wanted_far,
            "threshold": value,
            "far": None if value is None else metrics.far_of_runs(runs, value),
            "recall": None if value is None else metrics.recall_of_runs(runs, value),
            "set_on": ON_THESE,
        }


def _runs(scored: Scored) -> dict[str, metrics.Runs]:
    return {i: metrics.find_runs(scored.scores[i], scored.labels[i]) for i in scored.abnormal}


def _of_videos(measures: Measures, scored: Scored) -> None:
    """Adds the measures of video scores, and why they may not be defined."""
    labels_V = np.array([int(abnormal) for abnormal in scored.abnormal.values()])
    # Calibration keeps the order of video scores, and so their rank measures.
    ranked = scored.video_scores or scored.chances
    if ranked is not None:
        scores_V = np.array([ranked[i] for i in scored.abnormal])
        measures["video_auc"] = metrics.roc_auc(scores_V, labels_V)
        measures["video_ap"] = metrics.average_precision(scores_V, labels_V)
        one_label = f"all {len(labels_V)} test videos have label {labels_V[0]}"
        measures["reasons"] |= {"video_auc": one_label, "video_ap": one_label}
    for name, values in (("ece", scored.chances), ("ece_uncalibrated", scored.video_scores)):
        if values is not None:
            chances_V = [values[i] for i in scored.abnormal]
            cast(Any, measures)[name] = calibration.expected_error(chances_V, labels_V)


def _of_events(measures: Measures, scored: Scored, threshold: events.Threshold | None) -> None:
    """Adds the measures of events, and why they may not be defined."""
    value = threshold.threshold if threshold else None
    reasons = measures["reasons"]
    measures["threshold"] = dataclasses.asdict(threshold) if threshold else None
    if scored.snippets is None or scored.times is None:
        reasons |= dict.fromkeys(_OF_EVENTS, "the videos' frame rate isn't known")
        return
    rule = events.Rule(threshold=0.0 if value is None else value)
    alarms, hours = events.count_alarms(*scored.normal_footage(), rule)
    measures["normal_hours"] = hours
    if value is not None:
        measures["alarms_per_hour"] = alarms / hours if hours else None
        reasons["alarms_per_hour"] = "no normal test video"
    elif threshold:
        without = dict.fromkeys(AT_THRESHOLD, threshold.reason or "no threshold")
        reasons |= without | {"alarms_per_hour": threshold.reason or "no threshold"}
    if scored.intervals is None or not any(scored.intervals.values()):
        names = (*AT_THRESHOLD, "event_ap", "event_map")
        reasons |= dict.fromkeys(names, scored.unlabelled or "no abnormal interval")
        return
    if value is not None:
        (
            measures["event_precision"],
            measures["event_recall"],
            measures["detection_delay"],
        ) = event_measures.at_threshold(scored.events_at(value), scored.intervals)
    found = event_measures.candidates(scored.snippets, scored.times)
    by_class = metrics.group_by_class(scored.abnormal_ids, scored.classes)
    measures["event_ap"] = event_measures.mean_average_precision(found, scored.intervals)
    reasons["event_map"] = "the abnormal test videos have no classes"
    if by_class:
        measures["event_map"] = event_measures.mean_average_precision(
            found, scored.intervals, by_class, scored.normal_ids
        )


def _sample(scored: Scored, options: MeasureOptions) -> resampling.Sample:
    return resampling.Sample(
        _runs(scored),
        scored.abnormal_ids,
        metrics.group_by_class(scored.abnormal_ids, scored.classes),
        options.far_threshold,
        scored.video_scores or scored.chances,
    )


def compare(one: Scored, other: Scored, options: MeasureOptions | None = None) -> dict[str, Any]:
    """Compares two detectors on the same videos; see resampling.compare.

    Raises:
      UserError: the videos or the labels of their frames differ, or there are no labels.
    """
    options = options or MeasureOptions()
    if why := one.unlabelled or other.unlabelled:
        raise UserError(f"expected frame labels to compare by, found none: {why}")
    for i in one.abnormal:
        if i not in other.abnormal or not np.array_equal(one.labels[i], other.labels[i]):
            found = len(other.labels[i]) if i in other.abnormal else "none"
            raise UserError(
                f"video {i!r}: expected the same frames and labels of both detectors, found "
                f"{len(one.labels[i])} frames ({one.alignment}) and {found} ({other.alignment}); "
                "measure the same test videos by one --alignment"
            )
    if extra := [i for i in other.abnormal if i not in one.abnormal]:
        raise UserError(f"video {extra[0]!r}: expected scores of both detectors, found one's only")
    # In the same order, and of the same classes.
    other = dataclasses.replace(other, abnormal=one.abnormal, classes=one.classes)
    return resampling.compare(
        _sample(one, options),
        _sample(other, options),
        one.units,
        options.bootstrap or DRAWS,
        options.seed,
    )
