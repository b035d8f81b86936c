"""Frames of video files and of folders of images.

Frames are RGB uint8 [H, W, 3] and upright: a rotation in the metadata is applied in quarter turns.

Damage is reported, not hidden. A truncated file decodes to fewer frames than its container
declares, without an error from the decoder, so both counts are returned and the caller decides.
With several threads, a decoder loses frames around damage, and what it invents for lost parts of a
picture differs from run to run; damaged files are therefore decoded again with one thread. Frames
are assumed to be evenly spaced; the largest deviation of their time stamps is returned too.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np

from generation.media.containers import Packets, declared_frames, nothing_decoded, opened
from generation.media.image_folders import decode_image, list_images


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


class Reader:
    """A video file or folder of images, of which selected frames are decoded.

    Opening reads the packets without decoding them, which tells how many frames an undamaged file
    has. `frames` may be called more than once.

    Args:
      path: a file, or a folder of images.

    Attributes:
      fps, declared_frames, uneven_seconds: see Video.
      num_frames: number of packets with frames; 0 if the file has none.
      height, width: size in pixels of a frame as it is stored.
      decoded_frames, damaged: results of the last complete call of `frames`; see Video.

    Raises:
      UnreadableError: the path is not a video, or a folder without a readable image.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._images = list_images(self.path) if self.path.is_dir() else None
        self.decoded_frames = self.damaged = 0
        if self._images is not None:
            first = next(filter(None, map(decode_image, self._images)), None)
            self.num_frames = self.declared_frames = len(self._images)
            if first is None:
                raise nothing_decoded(self.path, self.num_frames)
            self.fps, self.uneven_seconds = None, 0.0
            self.height, self.width = first.height, first.width
            return
        with opened(self.path) as (container, stream):
            self.height, self.width = stream.codec_context.height, stream.codec_context.width
            declared = declared_frames(stream)
            packets = Packets(container, stream)
            collections.deque(packets, maxlen=0)
            self.uneven_seconds = packets.uneven_seconds()
        self.fps, self.num_frames = packets.fps, packets.count
        self.declared_frames = declared or self.num_frames

    def frames(
        self, wanted: Iterable[int], *, threads: bool = True
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the wanted frames in order; others are decoded but not converted.

        Args:
          wanted: ascending indices; those that do not exist are skipped.
          threads: whether to decode with several threads.

        Yields:
          (index, frame [H, W, 3]). At the end, `decoded_frames` and `damaged` are set, and images
          that cannot be read are no longer counted as a folder's frames.
        """
        if self._images is not None:
            yield from self._wanted_images(wanted)
            return
        wanted, count, size = iter(wanted), 0, None
        upcoming = next(wanted, None)
        with opened(self.path) as (container, stream):
            stream.thread_type = "AUTO" if threads else "NONE"
            packets = Packets(container, stream)
            for frame in packets.decoded():
                size = size or _upright_size(frame)
                if count == upcoming:
                    yield count, _rgb(frame, size)
                    upcoming = next(wanted, None)
                count += 1
        self.decoded_frames, self.damaged = count, packets.damaged

    def _wanted_images(self, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        size, self.damaged = None, 0
        for index in wanted:
            if index < len(self._images):
                frame = decode_image(self._images[index])
                if frame is None:
                    self.damaged += 1
                    continue
                size = size or _upright_size(frame)
                yield index, _rgb(frame, size)
        if self.damaged:
            readable = [path for path in self._images if decode_image(path) is not None]
            self.damaged, self._images = len(self._images) - len(readable), readable
        self.decoded_frames = len(self._images)


def read(
    path: str | os.PathLike, *, on_progress: Callable[[int, int], None] | None = None
) -> Video:
    """Decodes a whole video file, or a folder of images in the order of their names.

    Damaged packets are skipped and counted, so that everything readable is read.

    Args:
      path: a file, or a folder of images.
      on_progress: called after each frame of a file with the number of frames decoded so far and
        the number declared, 0 if unknown.

    Returns:
      The video; `frames_TxHxWx3` has at least one frame.

    Raises:
      UnreadableError: no frame can be decoded.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _read_folder(path)
    video, num_packets = _read_file(path, threads=True, on_progress=on_progress)
    if video.damaged or len(video.frames_TxHxWx3) != num_packets:
        video, _ = _read_file(path, threads=False, on_progress=on_progress)
    if not len(video.frames_TxHxWx3):
        raise nothing_decoded(path, video.declared_frames)
    return video


def _read_file(
    path: pathlib.Path, threads: bool, on_progress: Callable[[int, int], None] | None
) -> tuple[Video, int]:
    """Returns what could be decoded and the number of packets."""
    frames, size = [], None
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO" if threads else "NONE"
        declared = declared_frames(stream)
        packets = Packets(container, stream)
        for frame in packets.decoded():
            size = size or _upright_size(frame)
            frames.append(_rgb(frame, size))
            if on_progress is not None:
                on_progress(len(frames), declared)
    frames_TxHxWx3 = np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)
    video = Video(
        frames_TxHxWx3,
        packets.fps,
        declared or packets.count,
        packets.damaged,
        packets.uneven_seconds(),
    )
    return video, packets.count


def _read_folder(folder: pathlib.Path) -> Video:
    paths = list_images(folder)
    readable = [frame for frame in map(decode_image, paths) if frame is not None]
    if not readable:
        raise nothing_decoded(folder, len(paths))
    frames = [_rgb(frame, _upright_size(readable[0])) for frame in readable]
    return Video(np.stack(frames), None, len(paths), len(paths) - len(readable))


def _rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """Returns a frame upright, in RGB and in this size, which is that of the first frame."""
    turns = _quarter_turns(frame)
    stored_size = size[::-1] if turns % 2 else size
    if (frame.width, frame.height) != stored_size:
        frame = frame.reformat(*stored_size, format="rgb24")
    image_HxWx3 = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image_HxWx3, turns)) if turns else image_HxWx3


def _quarter_turns(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Returns (width, height)."""
    size = frame.width, frame.height
    return size[::-1] if _quarter_turns(frame) % 2 else size
