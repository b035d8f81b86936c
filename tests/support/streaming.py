"""Frames in memory for encoders and captioners, which take a video's pictures one by one."""

import pathlib

import av
import numpy as np

from generation.media import reading


def pictures(frames_FxHxWx3):
    """Returns a video in memory as the reader's pictures."""
    scalers = reading.new_scalers()
    return [
        reading.Picture(
            pathlib.Path("memory"),
            av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24"),
            frame.shape[1::-1],
            scalers,
        )
        for frame in frames_FxHxWx3
    ]


def run(model, frames_FxHxWx3, spans_Tx2, fps, at_once=1000):
    """Returns what an encoder or captioner makes of each snippet of a video in memory.

    Args:
      model: the encoder or captioner.
      frames_FxHxWx3: RGB uint8.
      spans_Tx2: [start, end) of each snippet.
      fps: frames per second.
      at_once: number of frames that the stream takes at once.
    """
    stream = model.begin(np.asarray(spans_Tx2), len(frames_FxHxWx3), fps)
    shown = pictures(frames_FxHxWx3)
    results = []
    for start in range(0, len(stream.wanted_F), at_once):
        wanted = stream.wanted_F[start : start + at_once]
        results += stream.take([stream.prepare(shown[index]) for index in wanted])
    assert len(results) == len(spans_Tx2)
    return results


def encode(encoder, frames_FxHxWx3, spans_Tx2, fps, at_once=1000):
    """Returns float32 [T, crops, dim]; see `run`."""
    return np.stack(run(encoder, frames_FxHxWx3, spans_Tx2, fps, at_once))


def shown(path, fps):
    """Returns which of a file's decodable frames is shown at each tick of a clock."""
    reader = reading.Reader(path)
    for _ in reader.frames([], threads=False):
        pass
    return reader.shown_at(fps)
