"""A video that plays inside a page, beside the scores and events of its frames."""

import base64
import pathlib
import tempfile
from typing import Any

import numpy as np

from tools.pages.rendering import points
from tools.studies.curves import Alarm, Curve

# Width and height of a plot, margins for its labels, and the height of an arm's line of events, in
# SVG units. Labels are larger on narrow screens (templates/demo.html), so the margins are wide.
WIDTH, HEIGHT, LEFT, BOTTOM, LANE = 640, 200, 44, 28, 14
# Width of a label of time on a narrow screen.
_LABEL = 52
# x264's quality: the page holds the video's bytes.
_CRF = 28


def player(curve: Curve) -> dict[str, Any]:
    """Values of the template for a video: its bytes, the coordinates of its plot, its events."""
    num_frames = max(len(scores) for scores in curve.scores.values())
    seconds, bottom = num_frames / curve.fps, HEIGHT + 4

    def x(second: float) -> float:
        return LEFT + float(np.clip(second / seconds, 0, 1)) * (WIDTH - LEFT)

    def y(score: float) -> float:
        return 4 + (1 - float(np.clip(score, 0, 1))) * (HEIGHT - 4)

    lanes = [
        [
            (f"{x(event.start):.1f}", f"{x(event.end) - x(event.start):.1f}")
            for event in alarm.events
            if event.end > 0 and event.start < seconds
        ]
        for alarm in curve.alarms.values()
    ]
    # At most seven labels of time, so that none touch on a narrow screen.
    every = next(step for step in (1, 2, 5, 10, 20, 60) if seconds / step <= 7 or step == 60)
    return {
        "id": curve.id,
        "kind": "abnormal" if curve.label else "normal",
        "part": f"from {curve.start / curve.fps:.0f} s on" if curve.start else "",
        "mp4": mp4(curve.played_PxHxWx3, curve.played_fps),
        "width": WIDTH,
        "height": bottom + LANE * len(lanes) + BOTTOM,
        "left": LEFT,
        "floor": HEIGHT,
        "seconds": f"{seconds:.3f}",
        "intervals": [
            (f"{x(start / curve.fps):.1f}", f"{x(end / curve.fps) - x(start / curve.fps):.1f}")
            for start, end in curve.intervals
        ],
        "levels": [(f"{s:g}", f"{y(s):.1f}") for s in (0, 0.5, 1)],
        "ticks": [
            (f"{tick}", f"{x(tick):.1f}")
            for tick in range(0, int(seconds) + 1, every)
            if x(tick) < WIDTH - _LABEL
        ],
        "thresholds": [
            f"{y(alarm.threshold['threshold']):.1f}" if alarm.threshold else None
            for alarm in curve.alarms.values()
        ],
        "curves": [
            points((x((frame + 0.5) / curve.fps), y(score)) for frame, score in enumerate(scores))
            for scores in curve.scores.values()
        ],
        "lanes": [(f"{bottom + LANE * n}", lane) for n, lane in enumerate(lanes)],
        "lane": LANE - 3,
        "events": [(arm, events_text(alarm)) for arm, alarm in curve.alarms.items()],
    }


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
