"""Events: from snippet or frame scores to alarms, and the threshold for a rate of alarms.

An event begins at the first snippet that scores above the threshold and goes on until one scores
below a lower threshold (hysteresis). Events with at most the cool-down between them are one; what
is then shorter than the minimum length is none. A gap in the footage that is longer than the
cool-down ends an event. Times are seconds on the source's clock. numpy only.

All functions raise ValueError, with the argument's name, for arrays of other shapes, NaN, infinity
and times that don't rise.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# An event counts as one alarm for each minute begun: a threshold below which the alarm never ends
# would otherwise have the fewest events of all.
ALARM_SECONDS = 60.0
# The rule of three: no event in H hours supports a rate of 3 / H, with 95 % confidence.
SUPPORT = 3.0
# Differences of times are compared up to this many seconds of rounding.
_SLACK = 1e-9
# Thresholds that are tried before the exact search, which then needs few snippets.
_COARSE = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What makes an event.

    Attributes:
      threshold: an event begins where a score is above it.
      hysteresis: an event ends where a score is below `leave`, which is lower than the threshold by
        this share of it.
      min_seconds: shorter events are dropped.
      cool_down: events with at most this many seconds between them are one.
    """

    threshold: float
    hysteresis: float = 0.2
    min_seconds: float = 1.0
    cool_down: float = 5.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold: expected a finite number, found {self.threshold}")
        if not 0 <= self.hysteresis < 1:
            raise ValueError(f"hysteresis: expected at least 0, below 1, found {self.hysteresis}")
        for name in ("min_seconds", "cool_down"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected seconds, found {getattr(self, name)}")

    @property
    def leave(self) -> float:
        """The lower threshold, below which an event ends."""
        return self.threshold - self.hysteresis * abs(self.threshold)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Something that scored high for a while.

    Attributes:
      video: id of the video, or name of the source.
      start, end: seconds; those of its first and its last snippet.
      peak: its highest score.
      peak_time: the middle of the first snippet with that score, in seconds.
      mean: mean score of the snippets from the first to the last.
      threshold: the threshold that it was above.
      cls: "class" in JSON and CSV: what it may be; None if nobody said.
      thumbnail: path of a picture; None if there is none.
    """

    video: str
    start: float
    end: float
    peak: float
    peak_time: float
    mean: float
    threshold: float
    cls: str | None = None
    thumbnail: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the event by the names of COLUMNS."""
        return dict(zip(COLUMNS, dataclasses.astuple(self), strict=True))

    def to_row(self) -> list[str]:
        """Returns the event as a line of CSV under COLUMNS, for csv.writer; None is empty."""
        return ["" if value is None else str(value) for value in dataclasses.astuple(self)]


COLUMNS = ("video", "start", "end", "peak", "peak_time", "mean", "threshold", "class", "thumbnail")


def frame_times(num_frames: int, fps: float) -> np.ndarray:
    """Returns the start and end of each frame in seconds [F, 2]."""
    if not 0 < fps < math.inf:
        raise ValueError(f"fps: expected a positive number, found {fps}")
    borders = np.arange(num_frames + 1) / fps
    return np.stack([borders[:-1], borders[1:]], axis=1)


def find_events(
    scores_T: npt.ArrayLike,
    rule: Rule,
    *,
    times_Tx2: npt.ArrayLike | None = None,
    fps: float | None = None,
    video: str = "",
) -> list[Event]:
    """Finds the events of a whole video.

    Args:
      scores_T: one score for each snippet, or for each frame.
      rule: what makes an event.
      times_Tx2: start and end of each snippet in seconds, both rising.
      fps: frames per second instead of times, for frame scores.
      video: the video's id.

    Returns:
      The events in the order of time.
    """
    if (times_Tx2 is None) == (fps is None):
        raise ValueError("times_Tx2, fps: expected one of the two, found both or neither")
    if fps is not None:
        times_Tx2 = frame_times(len(np.atleast_1d(scores_T)), fps)
    footage = join_footage({video: scores_T}, {video: times_Tx2})
    found = []
    for first, last in zip(*event_spans(footage, rule), strict=True):
        event_scores = footage.scores_T[first : last + 1]
        highest = int(np.argmax(event_scores))
        at = first + highest
        found.append(
            Event(
                video=video,
                start=float(footage.starts_T[first]),
                end=float(footage.ends_T[last]),
                peak=float(event_scores[highest]),
                peak_time=_middle(float(footage.starts_T[at]), float(footage.ends_T[at])),
                # Added one by one, as a stream does.
                mean=float(np.cumsum(event_scores)[-1]) / len(event_scores),
                threshold=rule.threshold,
            )
        )
    return found


class EventStream:
    """Finds the events of a source whose scores come one by one, in constant memory.

    They are those that `find_events` finds in the whole. An event is complete once the cool-down
    has passed without another one; until then `open_since` tells that it goes on.

    Args:
      rule: what makes an event.
      video: the source's name.
    """

    def __init__(self, rule: Rule, video: str = ""):
        self._rule, self._video = rule, video
        self._newest: tuple[float, float] | None = None
        self._inside = False
        self._open: _Open | None = None

    @property
    def open_since(self) -> float | None:
        """Start of the event that isn't complete yet, in seconds; None where there is none.

        It may still turn out to be shorter than the minimum length.
        """
        return self._open.start if self._open else None

    @property
    def open(self) -> Event | None:
        """The event that isn't complete yet, as it is so far, once it is sure to become one.

        None where there is none, and until it has the minimum length.
        """
        found = self._open
        if not found or found.end - found.start < self._rule.min_seconds - _SLACK:
            return None
        return Event(
            video=self._video,
            start=found.start,
            end=found.end,
            peak=found.peak,
            peak_time=found.peak_time,
            mean=found.mean,
            threshold=self._rule.threshold,
        )

    def push(self, score: float, start: float, end: float) -> Event | None:
        """Takes the next snippet; returns the event that it completes, if any.

        Args:
          score: the snippet's score.
          start, end: its time in seconds; neither is earlier than the snippet's before.
        """
        score, start, end = float(score), float(start), float(end)
        if not math.isfinite(score):
            raise ValueError(f"score: expected a finite number, found {score}")
        before = self._newest or (-math.inf, -math.inf)
        if not (before[0] <= start < end < math.inf and before[1] <= end and start > -math.inf):
            raise ValueError(
                f"start, end: expected a time not before the last snippet's {before}, found "
                f"{(start, end)}"
            )
        rule = self._rule
        # After a gap in the footage, too, a score must be above the threshold.
        if score > rule.threshold:
            self._inside = True
        elif score < rule.leave or start - before[1] > rule.cool_down + _SLACK:
            self._inside = False
        complete = None
        if self._open and start - self._open.end > rule.cool_down + _SLACK:
            complete = self.finish()
        self._newest = start, end
        if self._inside and not self._open:
            self._open = _Open(start, end, score, _middle(start, end))
        if self._open:
            self._open.add(score, start, end, self._inside)
        return complete

    def finish(self) -> Event | None:
        """Ends the source, or what is open of it; returns the event that this completes, if any."""
        complete, self._open = self.open, None
        return complete


@dataclasses.dataclass
class _Open:
    """An event that isn't complete; `mean` and `end` are of what surely belongs to it."""

    start: float
    end: float
    peak: float
    peak_time: float
    mean: float = 0.0
    total: float = 0.0
    count: int = 0

    def add(self, score: float, start: float, end: float, inside: bool) -> None:
        """Adds a snippet, inside the event or in a pause that may end it."""
        self.total += score
        self.count += 1
        if inside:
            self.end, self.mean = end, self.total / self.count
            if score > self.peak:
                self.peak, self.peak_time = score, _middle(start, end)


def _middle(start: float, end: float) -> float:
    return (start + end) / 2


class Footage(NamedTuple):
    """Snippets of several videos one after another.

    Attributes:
      scores_T, starts_T, ends_T: their scores, and their times in seconds.
      videos_T: number of each one's video.
    """

    scores_T: np.ndarray
    starts_T: np.ndarray
    ends_T: np.ndarray
    videos_T: np.ndarray

    def seconds(self) -> np.ndarray:
        """Seconds of each video that its snippets cover."""
        before_T = np.append(-np.inf, self.ends_T[:-1])
        before_T[np.diff(self.videos_T, prepend=-1) != 0] = -np.inf
        covered_T = self.ends_T - np.maximum(self.starts_T, before_T)
        return np.bincount(self.videos_T, covered_T) if len(covered_T) else covered_T


def join_footage(scores: Mapping[str, npt.ArrayLike], times: Mapping[str, Any]) -> Footage:
    """Checks and joins the snippets of videos; see Footage."""
    parts = [(np.zeros(0), np.zeros((0, 2)), np.zeros(0, np.int64))]
    for number, (video, values) in enumerate(scores.items()):
        where = f"video {video!r}: " if video else ""
        if video not in times:
            raise ValueError(f"times: {where}expected a start and an end a score, found none")
        scores_T = np.asarray(values, np.float64)
        times_Tx2 = np.asarray(times[video], np.float64)
        if scores_T.ndim != 1 or not np.isfinite(scores_T).all():
            raise ValueError(
                f"scores_T: {where}expected finite scores [T], found shape {list(scores_T.shape)}, "
                "NaN or infinity"
            )
        if (
            times_Tx2.shape != (len(scores_T), 2)
            or not np.isfinite(times_Tx2).all()
            or (np.diff(times_Tx2, axis=0) < 0).any()
            or (times_Tx2[:, 0] >= times_Tx2[:, 1]).any()
        ):
            raise ValueError(
                f"times_Tx2: {where}expected a start and an end a score, both "
                f"rising, [{len(scores_T)}, 2], found shape {list(times_Tx2.shape)} of other times"
            )
        parts.append((scores_T, times_Tx2, np.full(len(scores_T), number, np.int64)))
    scores_T, times_Tx2, videos_T = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Footage(scores_T, times_Tx2[:, 0], times_Tx2[:, 1], videos_T)


def event_spans(footage: Footage, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """First and last snippet of each event [E], by whole arrays."""
    scores_T, starts_T, ends_T, videos_T = footage
    if not len(scores_T):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    pause = rule.cool_down + _SLACK
    # Where another video begins, or footage is missing, nothing goes on.
    breaks_T = np.append(True, (np.diff(videos_T) != 0) | (starts_T[1:] - ends_T[:-1] > pause))
    above_T = scores_T > rule.threshold
    # Between the thresholds the newest snippet outside them decides.
    decides_T = above_T | (scores_T < rule.leave) | breaks_T
    inside_T = above_T[np.maximum.accumulate(np.where(decides_T, np.arange(len(scores_T)), 0))]
    begins_T = inside_T & (breaks_T | ~np.append(False, inside_T[:-1]))
    ends_here_T = inside_T & (np.append(breaks_T[1:], True) | ~np.append(inside_T[1:], False))
    first_R, last_R = np.flatnonzero(begins_T), np.flatnonzero(ends_here_T)
    apart_R = (starts_T[first_R[1:]] - ends_T[last_R[:-1]] > pause) | (
        videos_T[first_R[1:]] != videos_T[last_R[:-1]]
    )
    first_E = first_R[np.append(True, apart_R)] if len(first_R) else first_R
    last_E = last_R[np.append(apart_R, True)] if len(last_R) else last_R
    long_E = ends_T[last_E] - starts_T[first_E] >= rule.min_seconds - _SLACK
    return first_E[long_E], last_E[long_E]


def _count(footage: Footage, rule: Rule) -> int:
    first_E, last_E = event_spans(footage, rule)
    seconds_E = footage.ends_T[last_E] - footage.starts_T[first_E]
    return int(np.maximum(1, np.ceil((seconds_E - _SLACK) / ALARM_SECONDS)).sum())


def count_alarms(
    scores: Mapping[str, npt.ArrayLike], times: Mapping[str, npt.ArrayLike], rule: Rule
) -> tuple[int, float]:
    """Counts the alarms of some videos: one an event, and one more for each further minute of it.

    Args:
      scores: one score a snippet [T], by video id.
      times: start and end of each snippet in seconds [T, 2], by video id.
      rule: what makes an event.

    Returns:
      (alarms, hours of the videos).
    """
    footage = join_footage(scores, times)
    return _count(footage, rule), float(footage.seconds().sum()) / 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold for events, and what it rests on.

    Attributes:
      threshold: None without normal footage.
      alarms_per_hour: the rate that the footage supports: the one asked for, or more; None without
        normal footage.
      asked: the rate asked for.
      alarms: alarms on the normal footage at the threshold.
      hours: hours of normal footage.
      videos: number of its videos.
      reason: why the rate isn't the one asked for; None where it is.
    """

    threshold: float | None
    alarms_per_hour: float | None
    asked: float
    alarms: int = 0
    hours: float = 0.0
    videos: int = 0
    reason: str | None = None


def three_digits(number: float) -> str:
    """Returns a number as text, of three significant digits and without an exponent."""
    return np.format_float_positional(number, 3, unique=False, fractional=False, trim="-")


def threshold_for(
    alarms_per_hour: float,
    scores: Mapping[str, npt.ArrayLike],
    times: Mapping[str, npt.ArrayLike],
    **rule: float,
) -> Threshold:
    """Sets a threshold on normal footage that the detector wasn't trained on.

    It is the lowest score of the footage at which, and at all higher ones, there are at most as
    many alarms as asked for. On less than 3 / rate hours a rate that low can't be seen; the
    threshold is then the highest score, at which the footage has no alarm, and the rate is 3 /
    hours, which no alarm in so many hours supports with 95 % confidence.

    Args:
      alarms_per_hour: the most alarms an hour of normal footage, below one a minute.
      scores: one score a snippet [T], by video id.
      times: start and end of each snippet in seconds [T, 2], by video id.
      **rule: settings of Rule besides the threshold. Videos shorter than its min_seconds can't have
        an event; they don't count as footage.

    Returns:
      The threshold, and what it rests on.
    """
    most = 3600 / ALARM_SECONDS
    if not 0 < alarms_per_hour < most:
        raise ValueError(
            f"alarms_per_hour: expected above 0 and below {most:g}, found {alarms_per_hour}"
        )
    footage = join_footage(scores, times)
    usable_V = footage.seconds() >= Rule(threshold=0.0, **rule).min_seconds - _SLACK
    hours = float(footage.seconds()[usable_V].sum()) / 3600
    if not hours:
        return Threshold(
            threshold=None,
            alarms_per_hour=None,
            asked=alarms_per_hour,
            reason="no normal footage to set a threshold on",
        )
    footage = Footage(*(array[usable_V[footage.videos_T]] for array in footage))
    threshold, reason, rate = float(footage.scores_T.max()), None, alarms_per_hour
    # A second of rounding, because times add up.
    if hours < SUPPORT / alarms_per_hour - 1 / 3600:
        rate = SUPPORT / hours
        reason = (
            f"{three_digits(hours)} hours of normal footage support {three_digits(rate)} alarms an "
            f"hour, not {alarms_per_hour:g}, which takes {three_digits(SUPPORT / alarms_per_hour)} "
            "hours"
        )
    else:
        threshold = _lowest(footage, alarms_per_hour * hours + _SLACK, rule)
    return Threshold(
        threshold=threshold,
        alarms_per_hour=rate,
        asked=alarms_per_hour,
        alarms=_count(footage, Rule(threshold=threshold, **rule)),
        hours=hours,
        videos=int(usable_V.sum()),
        reason=reason,
    )


def _lowest(footage: Footage, allowed: float, rule: Mapping[str, float]) -> float:
    """The lowest score at which, and at all higher ones, there are no more alarms than allowed."""

    def exceeds(threshold: float) -> bool:
        return _count(footage, Rule(threshold=threshold, **rule)) > allowed

    falling = np.unique(footage.scores_T)[::-1].tolist()
    coarse = [*falling[:: max(1, len(falling) // _COARSE)], falling[-1]]
    bound = next((score for score in coarse if exceeds(score)), falling[-1])
    # Of what is below the lower threshold everywhere, the first snippet of each run says enough.
    kept_T = footage.scores_T >= Rule(threshold=bound, **rule).leave
    kept_T |= np.append(True, kept_T[:-1] | (np.diff(footage.videos_T) != 0))
    footage = Footage(*(array[kept_T] for array in footage))
    lowest = falling[0]
    for score in falling:
        if score < bound or exceeds(score):
            break
        lowest = score
    return lowest
