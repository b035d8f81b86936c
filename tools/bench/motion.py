"""What the motion encoder takes: CPU seconds for a second of video, and the parts of that.

CPU time counts all threads, and on a busy machine it stays nearly what it is on a quiet one. It is
that of the decoder and the encoder in one process, whose start and libraries aren't counted.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from generation.encode import decode_ahead
from generation.encode.recipe import EncodeOptions
from generation.media import reading
from gvvad_jax.store import annotations

# CPU seconds for a second of 720p25 that the encoder is to take at most.
GOAL = 0.08


def measure(videos: annotations.Annotations, seconds: float, repeats: int) -> dict[str, Any]:
    """Times decoding alone, features, and features with what the filter and the text rows need.

    Args:
      videos: the videos.
      seconds: their duration together.
      repeats: number of rounds, in which all parts are timed in turn.

    Returns:
      {"cpu_seconds_a_video_second": medians by part, "rounds": all values by part, "goal"}.
    """
    import cv2

    # As encoding does.
    cv2.setNumThreads(1)
    parts: dict[str, Callable[[], None]] = {
        "decoding": lambda: _decode(videos),
        "features": lambda: _encode(videos, captioner="none", measures=False),
        "features, measures": lambda: _encode(videos, captioner="none", measures=True),
        "features, measures, captions": lambda: _encode(videos, captioner="rules", measures=True),
    }
    rounds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, work in parts.items():
            began = time.process_time()
            work()
            rounds[name].append((time.process_time() - began) / seconds)
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    return {"cpu_seconds_a_video_second": medians, "rounds": rounds, "goal": GOAL}


def _decode(videos: annotations.Annotations) -> None:
    for video in videos.videos.values():
        for _ in reading.Reader(videos.resolve(video)).frames([]):
            pass


def _encode(videos: annotations.Annotations, *, captioner: str, measures: bool) -> None:
    recipe = EncodeOptions(captioner=captioner).recipe()
    source = decode_ahead.Source(videos, recipe, measure=measures)
    messages = source.messages(videos.videos.values())
    for message in decode_ahead.ahead(messages, decode_ahead.CHUNKS_ALIVE):
        if isinstance(message, decode_ahead.Chunk):
            message.plan.features.take(message.features)
            if message.plan.captions is not None:
                message.plan.captions.take(message.captions)


def report(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [figures["video"], "", "| part | CPU seconds a second of video |", "|---|---|"]
    for name, median in figures["cpu_seconds_a_video_second"].items():
        values = figures["rounds"][name]
        lines.append(f"| {name} | {median:.3f} ({min(values):.3f} to {max(values):.3f}) |")
    return "\n".join([*lines, "", f"goal for 720p25: {figures['goal']:g}"])
