"""The videos that pages and folders get: one that a browser plays, and events cut out."""

import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from generation.media import containers, reading
from generation.media.writing import write_video
from gvvad_jax.events import Event

if TYPE_CHECKING:
    from generation.media.reading import Picture, Reader
    from tools.watching.scoring import Scores
    from tools.watching.sources import VideoFile

# Longest side and most frames a second of a copy for the page.
_SIDE, _FPS = 640, 30.0
# x264's quality of that copy, and of events that are cut out.
_COPY_CRF, _CUT_CRF = 28, 23
# Seconds before and after an event that are cut out with it: less than half the cool-down, so that
# no two events share footage.
_MARGIN = 1.0
# What browsers play: by the container's ending, codecs; always 8 bits of YUV 4:2:0.
_PLAYED = {
    "mp4": ("h264", "av1", "vp9"),
    "webm": ("vp8", "vp9", "av1"),
}
_PIXELS = ("yuv420p", "yuvj420p")


def opened(video: "VideoFile", faults: Sequence[str] = ()) -> "reading.Reader":
    """Opens a video again, once its faults are known."""
    fps = video.annotation.fps if video.annotation else None
    reader = reading.Reader(video.path, fps=fps)
    if faults:  # When its frames are shown is known once all are decoded.
        for _ in reader.frames((), threads=False):
            pass
    return reader


def for_page(reader: "Reader", scores: "Scores", folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Puts a video that browsers play into a folder.

    A file that browsers play as it is becomes a second name of the same file, or where the disk is
    another one a copy. Any other is encoded again, smaller, as H.264.

    Args:
      reader: the video.
      scores: its scores, whose clock the player must follow.
      folder: the folder of the video's outputs.

    Returns:
      (the file in the folder, its type, such as video/mp4).
    """
    ending = _playable(reader, scores)
    path = folder / f"video.{ending or 'mp4'}"
    path.unlink(missing_ok=True)
    if ending:
        partial = folder / f".{path.name}.{secrets.token_hex(4)}.partial"
        source = os.path.realpath(reader.path)
        try:
            try:
                os.link(source, partial)
            except OSError:  # Another disk, or a file of somebody else.
                shutil.copyfile(source, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    else:
        fps = min(_FPS, scores.facts.fps)
        write_video(path, _copied(reader, fps), fps=fps, crf=_COPY_CRF)
    return path, f"video/{ending or 'mp4'}"


def _playable(reader: "Reader", scores: "Scores") -> str | None:
    """Returns the ending of a file that browsers play on the scores' clock; None for others."""
    if reader.path.is_dir():
        return None
    # A rate of a list's own moves the clock; players skip other parts of damaged files.
    rate = reader.file_fps
    if scores.ending.faults or not rate or abs(scores.facts.fps / rate - 1) > 1e-4:
        return None
    with containers.opened(reader.path) as (container, stream):
        formats = container.format.name.split(",")
        ending = "mp4" if "mp4" in formats else None
        if "webm" in formats and reader.path.suffix.lower() == ".webm":
            ending = "webm"
        context = stream.codec_context
        plays = (
            ending is not None
            and context.codec.canonical_name in _PLAYED[ending]
            and context.pix_fmt in _PIXELS
        )
        # The player counts from the start of the file, the scores from the first frame.
        begins = (stream.start_time or 0) * float(stream.time_base or 0)
    return ending if plays and begins < 0.5 / rate else None


def _copied(reader: "Reader", fps: float) -> Iterator[np.ndarray]:
    for picture in _shown(reader, reader.shown_at(fps)):
        scale = min(1.0, _SIDE / max(picture.width, picture.height))
        yield picture.scaled(*_even(picture, scale), "rgb24")


def cut(
    reader: "Reader", events: Sequence[Event], scores: "Scores", paths: Sequence[pathlib.Path]
) -> None:
    """Cuts events out of a video, a second more at both ends, as H.264 without sound.

    Args:
      reader: the video; it is read once.
      events: the events, in the order of time.
      scores: the video's scores.
      paths: the file to write for each event.
    """
    fps = scores.facts.fps
    shown_F = reader.shown_at(fps)
    spans = [
        (max(0, int((event.start - _MARGIN) * fps)), int(np.ceil((event.end + _MARGIN) * fps)))
        for event in events
    ]
    wanted = [shown_F[start:end] for start, end in spans]
    pictures = _shown(reader, np.concatenate(wanted)) if wanted else iter(())
    for path, frames_F in zip(paths, wanted, strict=True):
        taken = (next(pictures) for _ in range(len(frames_F)))
        own = (picture.scaled(*_even(picture, 1.0), "rgb24") for picture in taken)
        write_video(path, own, fps=fps, crf=_CUT_CRF)


def _shown(reader: "Reader", frames_F: np.ndarray) -> "Iterator[Picture]":
    """Yields the pictures of ascending frames, one several times where it is shown so long.

    Frames that damage has lost are shown as the one before them.
    """
    # One thread where the file is damaged, as for the scores.
    decoded = reader.frames(np.unique(frames_F), threads=not reader.damaged)
    index, picture = next(decoded)
    upcoming = next(decoded, None)
    for frame in frames_F:
        while upcoming is not None and upcoming[0] <= frame:
            index, picture = upcoming
            upcoming = next(decoded, None)
        yield picture
    del index
    decoded.close()


def _even(picture: "Picture", scale: float) -> tuple[int, int]:
    """Returns a picture's size times a scale, in even numbers, which H.264 needs."""
    width, height = (max(2, 2 * round(n * scale / 2)) for n in (picture.width, picture.height))
    return width, height
