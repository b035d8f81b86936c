"""Frames of video files and of folders of images.

Frames are upright, as players show them: turns and flips in the metadata are applied.

Damage is reported, not hidden. A truncated file decodes to fewer frames than its container
declares, without an error from the decoder, so both counts are returned and the caller decides.
With several threads, a decoder loses frames around damage, and what it invents for lost parts of a
picture differs from run to run; damaged files are therefore decoded again with one thread.

A frame is shown until the next one, as the time stamps say; frames that are less than half a frame
off are taken to be evenly spaced.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from generation.media.containers import UnreadableError, nothing_decoded, opened
from generation.media.image_folders import decode_image, list_images
from generation.media.orientation import orientation
from generation.media.packets import Packets
from generation.media.timing import Timing, evenly
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment

# Containers round time stamps to milliseconds at worst.
_STAMP_SECONDS = 0.001


@dataclasses.dataclass(frozen=True)
class Video:
    """A decoded video.

    Attributes:
      frames_TxHxWx3: RGB uint8.
      fps: frames per second; None if the container does not declare it.
      declared_frames: number of frames that the container declares, or of its packets if it
        declares none. It differs from `len(frames_TxHxWx3)` if the file is damaged.
      damaged: number of packets that raised errors and of frames with invented parts.
      uneven_seconds: largest deviation of time stamps from frames evenly spaced at `fps`.
    """

    frames_TxHxWx3: np.ndarray
    fps: float | None
    declared_frames: int
    damaged: int
    uneven_seconds: float = 0.0


# A video's scalers by format and size. Each keeps the tables of its last size, which take longer to
# make than a picture takes to scale.
Scalers = collections.defaultdict[tuple[str, tuple[int, int]], VideoReformatter]


def new_scalers() -> Scalers:
    """Returns the scalers of one video's pictures."""
    return collections.defaultdict(VideoReformatter)


class Picture:
    """A decoded frame, not converted yet. Use it in the thread that iterates over the frames.

    Attributes:
      width, height: size of the upright picture, which is that of the video's first frame.

    Raises:
      UnreadableError: by all methods, if the frame cannot be converted.
    """

    def __init__(
        self,
        path: pathlib.Path,
        frame: av.VideoFrame,
        size: tuple[int, int],
        scalers: Scalers,
    ):
        self._path, self._frame, self._scalers = path, frame, scalers
        self.width, self.height = size

    def rgb(self) -> np.ndarray:
        """Returns the upright picture, RGB uint8 [H, W, 3]."""
        with self._reported():
            return upright_rgb(self._frame, (self.width, self.height))

    def scaled(
        self, width: int, height: int, format: Literal["gray", "rgb24"] = "gray"
    ) -> np.ndarray:
        """Returns the upright picture at this size, uint8: grey [H, W], or RGB [H, W, 3].

        It is scaled by area averaging straight from the decoder's planes.
        """
        with self._reported():
            turn = orientation(self._frame)
            size = turn.size(width, height)
            # One thread: more cost more for small pictures.
            frame = self._scalers[format, size].reformat(
                self._frame, *size, format=format, interpolation="AREA", threads=1
            )
            return turn.upright(frame.to_ndarray())

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # PyAV raises many kinds.
            raise UnreadableError(
                f"{self._path}: expected pictures that can be converted, found "
                f"{self._frame.format.name} {self._frame.width}x{self._frame.height} ({error}); "
                "re-encode or remove it"
            ) from error


class Reader:
    """A video file or folder of images, of which selected frames are decoded.

    Opening reads the packets without decoding them, which tells how many frames an undamaged file
    has and when they are shown. `frames` may be called more than once.

    Args:
      path: a file, or a folder of images.
      fps: frames per second that the user's list names; it wins over what the file says.

    Attributes:
      fps, declared_frames, uneven_seconds: see Video.
      file_fps: what the file says about its rate, also where the list names another; None if it
        says nothing.
      num_frames: number of frames that an undamaged file shows; 0 if the file has none.
      height, width: size in pixels of a frame as it is stored.
      times_F: float64 seconds at which each frame is first shown, relative to the first; of the
        decoded frames after a complete call of `frames`. None if there are neither time stamps nor
        `fps`.
      seconds: duration until the end of the last frame; None if unknown.
      decoded_frames, damaged: results of the last complete call of `frames`; see Video.

    Raises:
      UnreadableError: the path is not a video, or a folder without a readable image.
    """

    def __init__(self, path: str | os.PathLike, *, fps: float | None = None):
        self.path = pathlib.Path(path)
        self._images = list_images(self.path) if os.path.isdir(path) else None
        self.decoded_frames = self.damaged = 0
        self._has_listed_fps = fps is not None
        if self._images is not None:
            first = next(filter(None, map(decode_image, self._images)), None)
            self.num_frames = self.declared_frames = len(self._images)
            if first is None:
                raise nothing_decoded(self.path, self.num_frames)
            self.fps, self.file_fps, self.uneven_seconds = fps, None, 0.0
            self.height, self.width = first.height, first.width
            self._set(evenly(self.num_frames, fps))
            return
        with opened(self.path) as (container, stream):
            self.height, self.width = stream.codec_context.height, stream.codec_context.width
            packets = Packets(container, stream)
            collections.deque(packets, maxlen=0)
            self._undamaged = packets.undamaged_timing(fps)
            self.declared_frames = packets.declared_frames(self._undamaged)
        self.num_frames, self.fps = packets.count, self._undamaged.fps
        self.uneven_seconds = self._undamaged.uneven_seconds
        self.file_fps = self._undamaged.file_fps
        self._set(self._undamaged)

    def _set(self, timing: Timing) -> None:
        self._timing, self.times_F, self.seconds = timing, timing.times_F, timing.seconds

    def shown_at(self, rate: float) -> np.ndarray:
        """Returns which frame is shown at each tick of a clock: int64 indices of frames.

        A frame is shown until the next one; each tick looks at its middle, so that time stamps may
        jitter by half a tick. For evenly spaced frames this equals `alignment.resampled_frames`.

        Args:
          rate: ticks per second.

        Raises:
          UserError: there would be too many ticks; UnreadableError if the file is to blame.
        """
        timing = self._timing
        if timing.times_F is None:
            raise ValueError("fps: expected a frame rate of the file or of the list, found none")
        if not len(timing.times_F):
            return np.zeros(0, np.int64)
        if timing.even:
            try:
                return alignment.resampled_frames(len(timing.times_F), timing.fps, rate)
            except UserError as error:
                if self._has_listed_fps:
                    raise
                raise UnreadableError(f"{self.path}: {error}") from error
        wanted = timing.seconds * rate
        if not wanted <= alignment.MOST_FRAMES:
            raise UnreadableError(
                f"{self.path}: expected at most {alignment.MOST_FRAMES} frames at {rate:g} a "
                f"second, found {timing.seconds:g} s; its time stamps are damaged: re-encode it"
            )
        middles_F = (np.arange(max(1, round(wanted))) + 0.5) / rate + _STAMP_SECONDS
        return np.maximum(np.searchsorted(timing.times_F, middles_F, side="right") - 1, 0)

    def frames(
        self, wanted: Iterable[int], *, threads: bool = True
    ) -> Iterator[tuple[int, Picture]]:
        """Yields the wanted frames in order; others are decoded but not converted.

        Args:
          wanted: ascending indices; those that do not exist are skipped.
          threads: whether to decode with several threads.

        Yields:
          (index, picture). At the end, `decoded_frames`, `damaged` and `times_F` are set, and
          images that cannot be read are no longer counted as a folder's frames.
        """
        if self._images is not None:
            yield from self._wanted_images(wanted)
            return
        wanted, count, size, scalers = iter(wanted), 0, None, new_scalers()
        upcoming = next(wanted, None)
        with opened(self.path) as (container, stream):
            stream.thread_type = "AUTO" if threads else "NONE"
            packets = Packets(container, stream)
            for frame in packets.decoded():
                size = size or _upright_size(frame)
                if count == upcoming:
                    yield count, Picture(self.path, frame, size, scalers)
                    upcoming = next(wanted, None)
                count += 1
        self.decoded_frames, self.damaged = count, packets.damaged
        self._set(packets.decoded_timing(self._undamaged))

    def _wanted_images(self, wanted: Iterable[int]) -> Iterator[tuple[int, Picture]]:
        size, self.damaged, scalers = None, 0, new_scalers()
        for index in wanted:
            if index >= len(self._images):
                break
            frame = decode_image(self._images[index])
            if frame is None:
                self.damaged += 1
                continue
            size = size or _upright_size(frame)
            yield index, Picture(self.path, frame, size, scalers)
        if self.damaged:
            readable_F = [decode_image(path) is not None for path in self._images]
            self.damaged = readable_F.count(False)
            self._images = list(itertools.compress(self._images, readable_F))
            # The others keep their times.
            times_F = self.times_F if self.times_F is None else self.times_F[readable_F]
            self._set(dataclasses.replace(self._timing, times_F=times_F, even=False))
        self.decoded_frames = len(self._images)


def read(path: str | os.PathLike) -> Video:
    """Decodes a whole video file, or a folder of images in the order of their names.

    Damaged packets are skipped and counted, so that everything readable is read.

    Args:
      path: a file, or a folder of images.

    Returns:
      The video; `frames_TxHxWx3` has at least one frame.

    Raises:
      UnreadableError: no frame can be decoded.
    """
    path = pathlib.Path(path)
    reader = Reader(path)
    for threads in (True, False):
        pictures = reader.frames(itertools.count(), threads=threads)
        frames = [picture.rgb() for _, picture in pictures]
        damaged = reader.damaged
        # A folder's damaged images are no longer counted in a second pass.
        is_whole = not damaged and len(frames) == reader.num_frames == reader.declared_frames
        if os.path.isdir(path) or is_whole:
            break
    if not frames:
        raise nothing_decoded(path, reader.declared_frames)
    return Video(
        np.stack(frames), reader.fps, reader.declared_frames, damaged, reader.uneven_seconds
    )


def upright_rgb(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """Returns a frame upright, RGB uint8 [H, W, 3], in its own or another (width, height)."""
    turn = orientation(frame)
    if size is not None and turn.size(*size) != (frame.width, frame.height):
        frame = frame.reformat(*turn.size(*size), format="rgb24")
    return turn.upright(frame.to_ndarray(format="rgb24"))


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    return orientation(frame).size(frame.width, frame.height)
