"""A video that plays inside a page, beside the scores and events of its frames."""

import base64
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.pages.rendering import points
from tools.studies.curves import Alarm, Curve

# Width and height of a plot, margins for its labels, and the height of an arm's line of events, in
# SVG units. Labels are larger on narrow screens (templates/demo.html), so the margins are wide.
WIDTH, HEIGHT, LEFT, BOTTOM, LANE = 640, 200, 44, 28, 14
# Width of a label of time on a narrow screen.
_LABEL = 52
# Seconds between two labels of time.
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 86400)
# A plot's curve has no more points, as many as it has pixels on a wide screen.
_MOST_POINTS = 2000
# x264's quality: the page holds the video's bytes.
_CRF = 28

# Start and end of each.
Spans = Sequence[tuple[float, float]]


def player(curve: Curve) -> dict[str, Any]:
    """Values of the template for a video: its bytes, the coordinates of its plot, its events."""
    num_frames = max(len(scores) for scores in curve.scores.values())
    alarms = list(curve.alarms.values())
    return plot(
        seconds=num_frames / curve.fps,
        intervals=[(start / curve.fps, end / curve.fps) for start, end in curve.intervals],
        curves=[
            ((np.arange(len(scores)) + 0.5) / curve.fps, scores) for scores in curve.scores.values()
        ],
        thresholds=[a.threshold["threshold"] if a.threshold else None for a in alarms],
        lanes=[[(event.start, event.end) for event in alarm.events] for alarm in alarms],
    ) | {
        "id": curve.id,
        "kind": "abnormal" if curve.label else "normal",
        "part": f"from {curve.start / curve.fps:.0f} s on" if curve.start else "",
        "mp4": mp4(curve.played_PxHxWx3, curve.played_fps),
        "events": [(arm, events_text(alarm)) for arm, alarm in curve.alarms.items()],
    }


def plot(
    *,
    seconds: float,
    intervals: Spans,
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    thresholds: Sequence[float | None],
    lanes: Sequence[Spans],
) -> dict[str, Any]:
    """Coordinates of a plot of scores over time, for templates/player.html.

    Args:
      seconds: length of the video.
      intervals: start and end in seconds of what is abnormal in truth.
      curves: times in seconds and scores of each curve.
      thresholds: the threshold of each curve's events; None draws none.
      lanes: start and end of the events of each curve.
    """
    bottom = HEIGHT + 4

    def x(second: float) -> float:
        return LEFT + float(np.clip(second / seconds, 0, 1)) * (WIDTH - LEFT)

    def y(score: float) -> float:
        return 4 + (1 - float(np.clip(score, 0, 1))) * (HEIGHT - 4)

    def bars(spans: Spans) -> list[tuple[str, str]]:
        seen = [(start, end) for start, end in spans if end > 0 and start < seconds]
        return [(f"{x(start):.1f}", f"{x(end) - x(start):.1f}") for start, end in seen]

    # At most seven labels of time, so that none touch on a narrow screen.
    every = next((step for step in _STEPS if seconds / step <= 7), _STEPS[-1])
    return {
        "width": WIDTH,
        "height": bottom + LANE * len(lanes) + BOTTOM,
        "left": LEFT,
        "floor": HEIGHT,
        "seconds": f"{seconds:.3f}",
        "intervals": bars(intervals),
        "levels": [(f"{s:g}", f"{y(s):.1f}") for s in (0, 0.5, 1)],
        "ticks": [
            (_clock(tick, every), f"{x(tick):.1f}")
            for tick in range(0, int(seconds) + 1, every)
            if x(tick) < WIDTH - _LABEL
        ],
        "thresholds": [None if each is None else f"{y(each):.1f}" for each in thresholds],
        "curves": [
            points((x(second), y(score)) for second, score in zip(*outline(*c), strict=True))
            for c in curves
        ],
        "lanes": [(f"{bottom + LANE * n}", bars(lane)) for n, lane in enumerate(lanes)],
        "lane": LANE - 3,
    }


def outline(seconds_T: np.ndarray, scores_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thins a long curve out: of each piece of it, the lowest and the highest score are left."""
    if len(scores_T) <= _MOST_POINTS:
        return seconds_T, scores_T
    kept = set()
    for piece in np.array_split(np.arange(len(scores_T)), _MOST_POINTS // 2):
        kept |= {int(piece[np.argmin(scores_T[piece])]), int(piece[np.argmax(scores_T[piece])])}
    chosen = np.array(sorted(kept))
    return seconds_T[chosen], scores_T[chosen]


def _clock(second: int, every: int) -> str:
    """A label of time: seconds, or minutes and hours where labels are that far apart."""
    if every < 30:
        return f"{second} s"
    minutes, rest = divmod(second, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def events_text(alarm: Alarm) -> str:
    """The events of an arm in a video, in words; why there are none, where no threshold is set."""
    if not alarm.threshold:
        return f"no threshold, so no events: {alarm.reason}"
    found = [
        f"{event.start:.1f} to {event.end:.1f} s (up to {event.peak:.2f})" for event in alarm.events
    ]
    return ", ".join(found) if found else "none"


def mp4(frames_PxHxWx3: np.ndarray, fps: float) -> str:
    """Frames as the src of a <video>: an H.264 file inside the page."""
    from generation.media.writing import write_video

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "video.mp4"
        write_video(path, frames_PxHxWx3, fps=fps, crf=_CRF)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
