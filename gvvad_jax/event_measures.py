"""Measures of events against annotated intervals: precision, recall, delay, AP at temporal IoU.

An interval is an annotated [start, end) in seconds; an event is what a detector finds. Two of the
same video match at an IoU (intersection over union of their time) of at least a threshold, each of
them once at most, in the order of falling scores, as ActivityNet's evaluation matches. numpy only.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gvvad_jax import events, metrics

# The thresholds of XD-Violence's and others' temporal localisation.
IOUS = (0.1, 0.2, 0.3, 0.4, 0.5)
# Candidates are the runs of snippets above each of so many thresholds.
LEVELS = 20
# Of candidates that overlap more than this the one with the highest contrast is kept.
NMS_IOU = 0.6
# Most candidates of a video, as in ActivityNet's evaluation.
MOST = 100
# Snippet or frame times that are this near to each other touch.
_SLACK = 1e-6

Intervals = Mapping[str, Sequence[tuple[float, float]]]


class Detections(NamedTuple):
    """Events of one video, by falling score.

    Attributes:
      spans_Ex2: start and end in seconds.
      scores_E: how sure each one is.
    """

    spans_Ex2: np.ndarray
    scores_E: np.ndarray


def iou(spans_Ex2: npt.ArrayLike, intervals_Gx2: npt.ArrayLike) -> np.ndarray:
    """Computes the temporal intersection over union [E, G] of spans with intervals."""
    spans_Ex2 = np.asarray(spans_Ex2, np.float64).reshape(-1, 2)
    intervals_Gx2 = np.asarray(intervals_Gx2, np.float64).reshape(-1, 2)
    ends_ExG = np.minimum(spans_Ex2[:, None, 1], intervals_Gx2[:, 1])
    shared_ExG = np.clip(ends_ExG - np.maximum(spans_Ex2[:, None, 0], intervals_Gx2[:, 0]), 0, None)
    lengths_ExG = np.diff(spans_Ex2) + np.diff(intervals_Gx2)[:, 0]
    return shared_ExG / np.maximum(lengths_ExG - shared_ExG, np.finfo(np.float64).tiny)


def match(iou_ExG: np.ndarray, least: float) -> np.ndarray:
    """Matches events with intervals.

    Args:
      iou_ExG: their overlaps; events by falling score.
      least: the IoU that a match takes; 0 takes any overlap.

    Returns:
      bool [E], whether each event has an interval; each interval is given once.
    """
    close_ExG = iou_ExG >= least if least else iou_ExG > 0
    matched_E, taken_G = np.zeros(len(iou_ExG), bool), np.zeros(iou_ExG.shape[1], bool)
    for e in np.flatnonzero(close_ExG.any(axis=1)):
        free_G = close_ExG[e] & ~taken_G
        if free_G.any():
            taken_G[np.argmax(np.where(free_G, iou_ExG[e], -1.0))] = True
            matched_E[e] = True
    return matched_E


def candidates(
    scores: Mapping[str, npt.ArrayLike], times: Mapping[str, npt.ArrayLike], levels: int = LEVELS
) -> dict[str, Detections]:
    """Finds candidates for events at all thresholds, for a measure that needs no threshold.

    They are the runs of snippets above each of so many thresholds, evenly spaced from the lowest
    score of all videos to the highest; a candidate's score is its contrast. Duplicates go by
    non-maximum suppression (NMS_IOU), and each video keeps its MOST best ones.

    Args:
      scores: one score a snippet [T], or a frame, by video id.
      times: start and end of each in seconds [T, 2], by video id.
      levels: number of thresholds.
    """
    footage = events.join_footage(scores, times)
    scores_T, starts_T, ends_T, videos_T = footage
    if not len(scores_T):
        return {video_id: Detections(np.zeros((0, 2)), np.zeros(0)) for video_id in scores}
    breaks_T = np.append(True, (np.diff(videos_T) != 0) | (starts_T[1:] - ends_T[:-1] > _SLACK))
    count, keys = len(scores_T), []
    for level in np.linspace(scores_T.min(), scores_T.max(), levels + 1)[:-1]:
        above_T = scores_T > level
        before_T, after_T = np.append(False, above_T[:-1]), np.append(above_T[1:], False)
        first_E = np.flatnonzero(above_T & (breaks_T | ~before_T))
        last_E = np.flatnonzero(above_T & (np.append(breaks_T[1:], True) | ~after_T))
        keys.append(first_E * count + last_E)
    # Of equal candidates at several levels one is left; they are in the order of videos now.
    first_E, last_E = np.divmod(np.unique(np.concatenate(keys)), count)
    contrast_E = _contrast(scores_T, videos_T, first_E, last_E + 1)
    borders = np.searchsorted(videos_T[first_E], np.arange(len(scores) + 1))
    spans_Ex2 = np.stack([starts_T[first_E], ends_T[last_E]], axis=1)
    return {
        video_id: _suppress(
            spans_Ex2[borders[v] : borders[v + 1]], contrast_E[borders[v] : borders[v + 1]]
        )
        for v, video_id in enumerate(scores)
    }


def _contrast(
    scores_T: np.ndarray, videos_T: np.ndarray, first_E: np.ndarray, stop_E: np.ndarray
) -> np.ndarray:
    """Mean score of each candidate less that of its surroundings.

    They are a quarter of its length at either side, in its video (the outer-inner contrast of Shou
    et al., AutoLoc, ECCV 2018); a whole video's are the lowest score.
    """
    total_T = np.append(0.0, np.cumsum(scores_T))
    margin_E = np.maximum(1, (stop_E - first_E) // 4)
    video_E = videos_T[first_E]
    low_E = np.maximum(first_E - margin_E, np.searchsorted(videos_T, video_E))
    high_E = np.minimum(stop_E + margin_E, np.searchsorted(videos_T, video_E, side="right"))
    inner_E = total_T[stop_E] - total_T[first_E]
    count_E = (high_E - low_E) - (stop_E - first_E)
    outer_E = (total_T[high_E] - total_T[low_E] - inner_E) / np.maximum(count_E, 1)
    return inner_E / (stop_E - first_E) - np.where(count_E > 0, outer_E, scores_T.min())


def _suppress(spans_Ex2: np.ndarray, scores_E: np.ndarray) -> Detections:
    """Non-maximum suppression of one video's candidates; the best MOST are left."""
    # Rounding of running sums must not decide between equal means.
    scores_E = np.round(scores_E, 9)
    starts_E, ends_E = spans_Ex2.T
    # Among equals the longest, then the earliest.
    left_E = np.lexsort((starts_E, starts_E - ends_E, -scores_E))
    kept: list[int] = []
    while len(left_E) and len(kept) < MOST:
        best = left_E[0]
        kept.append(int(best))
        starts_L, ends_L = starts_E[left_E], ends_E[left_E]
        shared_L = np.minimum(ends_L, ends_E[best]) - np.maximum(starts_L, starts_E[best])
        joint_L = np.maximum(ends_L, ends_E[best]) - np.minimum(starts_L, starts_E[best])
        # Where they don't overlap the first is negative. The best one is the same as itself.
        left_E = left_E[shared_L <= NMS_IOU * joint_L]
    return Detections(spans_Ex2[kept], scores_E[kept])


def average_precision(
    found: Mapping[str, Detections], intervals: Intervals, least: float
) -> float | None:
    """Average precision of detections at one temporal IoU, as ActivityNet's evaluation has it.

    Precision at a recall is the highest at this recall or a higher one. Detections of equal score
    count together.

    Args:
      found: detections by video id.
      intervals: annotated intervals by video id; videos without any count false alarms.
      least: the IoU that a match takes.

    Returns:
      None without an interval.
    """
    count = sum(len(of_video) for of_video in intervals.values())
    if not count:
        return None
    right = [match(iou(d.spans_Ex2, intervals.get(i, ())), least) for i, d in found.items()]
    scores_E = np.concatenate([d.scores_E for d in found.values()]) if found else np.zeros(0)
    right_E = np.concatenate(right) if right else np.zeros(0, bool)
    if not len(scores_E):
        return 0.0
    runs = metrics.Runs(scores_E, right_E.astype(np.int64), np.ones(len(scores_E), np.int64))
    _, true_K, false_K = metrics.counts_of(runs)
    precision_K = np.maximum.accumulate((true_K / (true_K + false_K))[::-1])[::-1]
    return float(np.sum(np.diff(true_K, prepend=0) / count * precision_K))


def mean_average_precision(
    found: Mapping[str, Detections],
    intervals: Intervals,
    by_class: Mapping[str, Collection[str]] | None = None,
    normal: Collection[str] = (),
    ious: Sequence[float] = IOUS,
) -> dict[str, float] | None:
    """Average precision at each temporal IoU, and the mean over them.

    Args:
      found, intervals: see `average_precision`.
      by_class: ids of the videos of each class. Detections have no class here: a class's AP is of
        its own and the normal videos, and the mean over classes is given. Without it the AP is of
        all videos, whatever their class.
      normal: ids of the normal videos.
      ious: the IoUs.

    Returns:
      {"0.1": ..., "mean": ...}; None without an interval.
    """
    groups = [list(found)]
    if by_class is not None:
        groups = [[i for i in found if i in {*ids, *normal}] for ids in by_class.values()]
    means = {}
    for least in ious:
        values = [
            average_precision(
                {i: found[i] for i in ids}, {i: intervals.get(i, ()) for i in ids}, least
            )
            for ids in groups
        ]
        defined = [value for value in values if value is not None]
        if not defined:
            return None
        means[f"{least:g}"] = statistics.fmean(defined)
    return means | {"mean": statistics.fmean(means.values())}


def at_threshold(
    found: Mapping[str, Sequence[events.Event]], intervals: Intervals, ious: Sequence[float] = IOUS
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Compares the events at one threshold with annotated intervals.

    Args:
      found: events by video id.
      intervals: annotated intervals by video id; each has its video in `found`.
      ious: the IoUs that matches take.

    Returns:
      (precision, recall, delay). Precision is {"events", "any", "0.1" ...}: the number of events,
      and the share of them that match an interval at each IoU; "any" is the share that touches one.
      Recall is {"intervals", "any", "0.1" ...}: the number of intervals, and the share of them that
      match, or are touched. Delay is {"found", "missed", "mean", "median", "longest"}: seconds from
      the start of each touched interval to that of the first event that touches it, 0 where the
      event began before. Shares of nothing are None.
    """
    right, touched, delays = dict.fromkeys(ious, 0), 0, []
    for video_id, of_video in found.items():
        ranked = sorted(of_video, key=lambda event: (-event.peak, event.start))
        spans_Ex2 = np.array([(e.start, e.end) for e in ranked]).reshape(-1, 2)
        iou_ExG = iou(spans_Ex2, intervals.get(video_id, ()))
        for least in ious:
            right[least] += int(match(iou_ExG, least).sum())
        touched += int((iou_ExG > 0).any(axis=1).sum())
        for g, (start, _) in enumerate(intervals.get(video_id, ())):
            if (hits_E := iou_ExG[:, g] > 0).any():
                delays.append(max(0.0, float(spans_Ex2[hits_E, 0].min()) - start))
    count = sum(map(len, found.values()))
    total = sum(map(len, intervals.values()))

    def shares(any_of: int, of: int) -> dict[str, float | None]:
        hits = {"any": any_of, **{f"{least:g}": right[least] for least in ious}}
        return {name: value / of if of else None for name, value in hits.items()}

    delay = {
        "found": len(delays),
        "missed": total - len(delays),
        "mean": statistics.fmean(delays) if delays else None,
        "median": statistics.median(delays) if delays else None,
        "longest": max(delays, default=None),
    }
    precision = {"events": count, **shares(touched, count)}
    return precision, {"intervals": total, **shares(len(delays), total)}, delay
