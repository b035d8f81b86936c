"""Scores as snippets arrive: work for each, and the delay from a snippet's last frame to its event.

Everything runs in one process on one core. A window is computed anew for each snippet; what a
cache of every layer's past would save is counted in operations, by the compiled programs.
"""

import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gvvad_jax.store import workers

# As of the motion encoder and its captioner's text, which have one crop a snippet.
DIM, TEXT_DIM = 528, 256
WINDOWS = (8, 16, 32, 64)
# What the delay is measured on: a camera of so many frames a second, with the usual snippets.
FPS, SIZE, SECONDS = 25.0, (720, 1280), 20.0
FRAMES, STRIDE = 16, 4
# Of a whole video, in windows, of which operations a snippet are counted.
_LONG = 16


def measure(
    folder: pathlib.Path,
    detectors: Sequence[str],
    snippets: int = 200,
    *,
    windows: Sequence[int] = WINDOWS,
    size: tuple[int, int] = SIZE,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Measures on one core.

    Args:
      folder: for the video.
      detectors: which to measure, with published sizes; the first one's largest window is used for
        the delay.
      snippets: how many are timed.
      windows: lengths of `--causal_window`.
      size: height and width of the camera's pictures.
      seconds: of the camera's video.

    Returns:
      By detector and window `ms` a snippet (median), `first_ms` of the first one once compiled,
      `compile_s`, and millions of operations a snippet, `mflop`, and `mflop_cached` were each
      layer's past kept; and as `delay` that of `_delay`.
    """
    cores = workers.cores()
    worker = workers.Worker(folder / "worker.log", cores[0] if cores else None)
    try:
        figures: dict[str, Any] = {}
        for detector in detectors:
            worker.start(_detector, detector, tuple(windows), snippets)
            figures[detector] = workers.value(worker)
        worker.start(_delay, folder, detectors[0], max(windows), size, seconds)
        return figures | {"delay": workers.value(worker)}
    finally:
        worker.end()


def _model(detector: str, window: int) -> Any:
    from gvvad_jax import scoring, step
    from gvvad_jax.config import TrainConfig
    from gvvad_jax.standardisation import Standardisation
    from gvvad_jax.store.format import Manifest

    config = TrainConfig(detector=detector, causal_window=window)
    manifest = Manifest(
        encoder={"id": "motion", "weights": "none", "pooling": "mean", "normalised": False},
        dim=DIM,
        crops={"count": 1, "order": "whole"},
        snippet={"frames": FRAMES, "stride": STRIDE, "pooling": "mean"},
        fps_policy="native",
        text={"encoder": "words", "dim": TEXT_DIM, "normalised": True},
    )
    return scoring.Model(
        config=config,
        manifest=manifest,
        standard=Standardisation(np.zeros(DIM, np.float32), np.ones(DIM, np.float32)),
        variables=step.scoring_variables(step.init_state(config, DIM, TEXT_DIM)),
        score_step=step.make_score_step(config),
    )


def _detector(detector: str, windows: Sequence[int], snippets: int) -> dict[str, dict[str, float]]:
    """Measures one detector; runs in the worker."""
    from gvvad_jax.streaming import ScoreStream

    visual_1xD = np.ones((1, DIM), np.float32)
    text_E = np.ones(TEXT_DIM, np.float32)
    figures = {}
    for window in windows:
        model = _model(detector, window)
        stream = ScoreStream(model)
        times = []
        for number in range(snippets + window + 1):
            if number == 1:
                stream.reset()
            start = time.perf_counter()
            stream.push(visual_1xD, text_E)
            times.append(time.perf_counter() - start)
        figures[str(window)] = {
            "ms": 1e3 * statistics.median(times[1 + window :]),
            "first_ms": 1e3 * times[1],
            "compile_s": times[0],
            "mflop": _operations(model, window) / 1e6,
            "mflop_cached": _operations(model, _LONG * window) / 1e6 / _LONG / window,
        }
    return figures


def _operations(model: Any, length: int) -> float:
    """Operations of scoring one video of so many snippets, by XLA's count."""
    import jax

    visual = jax.ShapeDtypeStruct((1, 1, length, DIM), np.float32)
    mask = jax.ShapeDtypeStruct((1, length), np.float32)
    text = None
    if model.config.uses_text:
        text = jax.ShapeDtypeStruct((1, length, TEXT_DIM), np.float32)
    lowered = model.score_step.lower(model.variables, visual, text, mask)
    return float(lowered.compile().cost_analysis()["flops"])


def _delay(
    folder: pathlib.Path, detector: str, window: int, size: tuple[int, int], seconds: float
) -> dict[str, Any]:
    """Takes a video's frames as a camera would give them; runs in the worker.

    Each frame is decoded, encoded by the motion encoder, and where it ends a snippet, that is
    scored and looked at for events. Frames are taken one after another as fast as possible, and
    timed. When a camera's frame is done follows: it begins when it has arrived and the one before
    is done. So nothing waits, and the figures are those of frames that arrive in real time.

    Returns:
      `frame_ms`, the mean time of a frame; `busy`, the share of the core that a camera takes; and
      in seconds the median and largest `delay_s` from when the last frame of a snippet that the
      encoder looks at has arrived until events are known.
    """
    import cv2

    from generation.encoders.motion import MotionEncoder
    from generation.media import reading
    from gvvad_jax.events import EventStream, Rule
    from gvvad_jax.store import alignment
    from gvvad_jax.streaming import ScoreStream
    from tools.bench import encode

    cv2.setNumThreads(1)
    encode.write_videos(folder, 1, seconds, size, FPS)
    reader = reading.Reader(folder / "0.mp4")
    count = reader.num_frames
    spans_Tx2 = alignment.snippet_spans(count, FRAMES, STRIDE)
    features = MotionEncoder().begin(spans_Tx2, count, FPS)
    wanted = set(features.wanted_F.tolist())
    scores, events = ScoreStream(_model(detector, window)), EventStream(Rule(threshold=0.5))
    text_E = np.ones(TEXT_DIM, np.float32)
    scores.push(np.ones((1, DIM), np.float32), text_E)  # Compiles, as a source's start does.
    scores.reset()
    done, delays, times, number = 0.0, [], [], 0
    start = time.perf_counter()
    for index, picture in reader.frames(np.arange(count), threads=False):
        ended = []
        if index in wanted:
            ended = features.take([features.prepare(picture)])
        for visual_1xD in ended:
            score = scores.push(visual_1xD, text_E)
            begin, end = spans_Tx2[number] / FPS
            events.push(score, float(begin), float(end))
            number += 1
        now = time.perf_counter()
        times.append(now - start)
        start = now
        arrived = index / FPS
        done = max(done, arrived) + times[-1]
        delays += [done - arrived] * len(ended)
    return {
        "detector": detector,
        "window": window,
        "snippets": len(delays),
        "frame_ms": 1e3 * statistics.mean(times),
        "busy": statistics.mean(times) * FPS,
        "delay_s": {"median": statistics.median(delays), "largest": max(delays)},
    }
