"""Score curves of some test videos: frame scores by arm, events, and the frames to play."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax import events
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.reader import Store

# Test videos of each label that are shown, abnormal ones first, evenly over the ids.
SHOWN = {1: 2, 0: 1}
# A longer video is shown in part, at fewer frames a second and smaller, so that pages stay small.
MOST_SECONDS = 40.0
MOST_FPS = 12.0
MOST_WIDTH = 320


@dataclasses.dataclass(frozen=True)
class Alarm:
    """An arm's threshold of events and what it finds in a video.

    Attributes:
      threshold: content of events.Threshold; None where the run has none.
      reason: why there is no threshold, or why it isn't of the rate that was asked for.
      events: the video's events.
    """

    threshold: Mapping[str, Any] | None
    reason: str | None
    events: Sequence[events.Event]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A test video, or a part of it.

    Attributes:
      id, label: of the video.
      fps: frames per second.
      start: its first frame that is shown.
      intervals: true [start, end) in frames of what is shown.
      scores: scores [F] of the frames that are shown, by arm.
      alarms: by arm; times count from the first frame that is shown.
      played_PxHxWx3: the frames that are played, RGB uint8.
      played_fps: how many of them a second.
    """

    id: str
    label: int
    fps: float
    start: int
    intervals: Sequence[tuple[int, int]]
    scores: Mapping[str, np.ndarray]
    alarms: Mapping[str, Alarm]
    played_PxHxWx3: np.ndarray
    played_fps: float


def choose(opened: Store) -> list[str]:
    """Ids of the test videos whose curves are shown."""
    chosen = []
    for label, count in SHOWN.items():
        ids = sorted(
            i
            for i, video in opened.videos.videos.items()
            if video.split == "test" and video.label == label and i in opened.rows
        )
        places = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
        chosen += [ids[place] for place in np.unique(places)]
    return chosen


def of(
    annotated: annotations.Annotations,
    store_path: str,
    shown: Sequence[str],
    results: Mapping[str, Mapping[str, Any]],
) -> list[Curve]:
    """Joins the scores of runs with the videos.

    Args:
      annotated: the real videos.
      store_path: their store.
      shown: ids of the videos.
      results: by arm, what tools.studies.arms trained: "last" of result.json and "snippets".
    """
    opened = Store(store_path)
    return [_curve(annotated, opened, video_id, results) for video_id in shown]


def _curve(
    annotated: annotations.Annotations,
    opened: Store,
    video_id: str,
    results: Mapping[str, Mapping[str, Any]],
) -> Curve:
    row, video, times = opened.rows[video_id], annotated.videos[video_id], opened.times(video_id)
    # Lists may count frames of another rate than the store's.
    labels = annotations.frame_labels(
        video, row.num_frames, scale=annotations.frame_scale(video, row.num_frames, row.fps)
    )
    intervals = runs_of(labels)
    start, end = window(row.num_frames, row.fps, intervals)
    every = math.ceil(row.fps / MOST_FPS)
    scores, alarms = {}, {}
    for arm, result in results.items():
        snippets = result["snippets"][video_id]
        frames = alignment.frame_scores(snippets, times, row.num_frames, row.fps)
        scores[arm] = np.asarray(frames)[start:end]
        alarms[arm] = alarm(result["last"], snippets, times - start / row.fps, video_id)
    return Curve(
        id=video_id,
        label=video.label,
        fps=row.fps,
        start=start,
        intervals=[
            (max(a, start) - start, min(b, end) - start)
            for a, b in intervals
            if a < end and b > start
        ],
        scores=scores,
        alarms=alarms,
        played_PxHxWx3=_played(annotated.resolve(video), range(start, end, every)),
        played_fps=row.fps / every,
    )


def runs_of(labels_F: np.ndarray) -> list[tuple[int, int]]:
    """[start, end) of each run of ones."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(labels_F) != 0, [0]])))
    return [(int(start), int(end)) for start, end in changes.reshape(-1, 2)]


def window(num_frames: int, fps: float, intervals: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First and last frame (exclusive) of what is shown: all, or a part around the first event."""
    most = int(MOST_SECONDS * fps)
    if num_frames <= most:
        return 0, num_frames
    middle = sum(intervals[0]) // 2 if intervals else most // 2
    start = min(max(0, middle - most // 2), num_frames - most)
    return start, start + most


def alarm(
    last: Mapping[str, Any], snippets_T: np.ndarray, times_Tx2: np.ndarray, video_id: str
) -> Alarm:
    """What a run's threshold finds in a video; `last` is its measures in result.json."""
    threshold, reason = last["threshold"], no_threshold(last)
    if reason:
        return Alarm(None, reason, ())
    rule = events.Rule(threshold=threshold["threshold"])
    found = events.find_events(snippets_T, rule, times_Tx2=times_Tx2, video=video_id)
    return Alarm(threshold, threshold["reason"], found)


def no_threshold(last: Mapping[str, Any]) -> str:
    """Why a run has no threshold of events; empty where it has one."""
    threshold = last["threshold"] or {}
    if threshold.get("threshold") is not None:
        return ""
    return threshold.get("reason") or last["reasons"].get("threshold") or "unknown"


def threshold_text(last: Mapping[str, Any]) -> str:
    """A run's threshold of events and the footage it rests on, in a sentence."""
    threshold, reason = last["threshold"], no_threshold(last)
    if reason:
        return f"no threshold: {reason}"
    text = (
        f"events begin above {threshold['threshold']:.3f}, where {threshold['videos']} normal "
        f"videos that it didn't train on give {threshold['alarms']} alarms"
    )
    return text + (f"; {threshold['reason']}" if threshold["reason"] else "")


def _played(path: pathlib.Path, wanted: range) -> np.ndarray:
    """The wanted frames, not wider than MOST_WIDTH and of an even size, which H.264 needs."""
    from generation.media import reading

    frames = []
    for _, picture in reading.Reader(path).frames(wanted):
        scale = min(1.0, MOST_WIDTH / picture.width)
        width, height = (max(2, 2 * round(scale * n / 2)) for n in (picture.width, picture.height))
        frames.append(picture.scaled(width, height, "rgb24"))
    return np.stack(frames)
