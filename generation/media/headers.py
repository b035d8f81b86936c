"""What a video's header says: length, rate and likely faults, without reading the whole file."""

import dataclasses
import itertools
import os
import pathlib
import struct

import av
import numpy as np

from generation.media import image_folders, reading
from generation.media.containers import nothing_decoded, opened

# Packets that may come before the first frame that can be decoded.
_MOST_PACKETS = 100
# Time stamps that are looked at.
_MOST_STAMPS = 200
# Cameras with a constant rate jitter less, in frames.
_JITTER = 1.0


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known of a video before it is decoded.

    Attributes:
      num_frames: number of frames, as far as the header knows.
      seconds: duration, if frames aren't evenly spaced; else None.
      fps: frames per second that the file says; None if nothing.
      num_bytes: size of the file, or of a folder's images.
      faults: what will be reported when it is encoded.
    """

    num_frames: int
    fps: float | None
    num_bytes: int
    seconds: float | None = None
    faults: tuple[str, ...] = ()


def read(path: str | os.PathLike) -> Header:
    """Reads a file's header and decodes its first frame; a folder's images are counted.

    Containers that declare no length, such as raw streams, are read to their end.

    Raises:
      UnreadableError: nothing can be decoded.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        images = image_folders.list_images(path)
        if image_folders.decode_image(images[0]) is None:
            fault = "its first image can't be read"
            return Header(len(images), None, _size(images), faults=(fault,))
        return Header(len(images), None, _size(images))
    with opened(path) as (container, stream):
        rates = (stream.average_rate, stream.guessed_rate, stream.codec_context.framerate)
        fps = next((float(rate) for rate in rates if rate), None)
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        seconds = seconds or (container.duration or 0) / av.time_base
        num_frames = stream.frames or (round(seconds * fps) if fps else 0)
        cut, uneven = _cut(path, container, stream), _uneven(container, stream)
        if not _first_frame(container, stream):
            raise nothing_decoded(path, num_frames)
    if not num_frames:
        reader = reading.Reader(path)
        num_frames, fps = reader.num_frames, reader.fps
    kept = seconds if uneven else None
    return Header(num_frames, fps, path.stat().st_size, kept, (*cut, *uneven))


def _size(paths: list[pathlib.Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _first_frame(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    container.seek(0)
    stream.thread_type = "NONE"
    for packet in itertools.islice(container.demux(stream), _MOST_PACKETS):
        try:
            if packet.decode():
                return True
        except Exception:  # PyAV raises many kinds for damaged packets.
            continue
    return False


def _cut(
    path: pathlib.Path, container: av.container.InputContainer, stream: av.VideoStream
) -> list[str]:
    """Says whether the file is shorter than its header declares."""
    declared, size = 0, path.stat().st_size
    if "mov" in container.format.name and len(stream.index_entries):
        last = stream.index_entries[-1]
        declared = last.pos + last.size
    elif "avi" in container.format.name:
        with open(path, "rb") as file:
            head = file.read(8)
        declared = 8 + struct.unpack("<I", head[4:])[0] if head[:4] == b"RIFF" else 0
    if declared <= size:
        return []
    return [f"it is cut off: its header names {declared} bytes, {size} are there"]


def _uneven(container: av.container.InputContainer, stream: av.VideoStream) -> list[str]:
    """Says whether frames aren't evenly spaced, by time stamps in the header or at the start."""
    entries = stream.index_entries
    if "mov" in container.format.name and len(entries) > 1:
        places = np.unique(np.linspace(0, len(entries) - 1, _MOST_STAMPS).astype(int))
        stamps = [entries[int(place)].timestamp for place in places]
        mean = (stamps[-1] - stamps[0]) / places[-1]
    else:
        packets = itertools.islice(container.demux(stream), _MOST_STAMPS)
        stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
        places = np.arange(len(stamps))
        if len(stamps) < 3:
            return []
        mean = float(np.median(np.diff(stamps)))
    if mean <= 0:
        return []
    away = float(np.abs(np.array(stamps) - stamps[0] - places * mean).max())
    if away <= _JITTER * mean:
        return []
    seconds = away * float(stream.time_base or 0)
    return [f"its frames aren't evenly spaced: they are up to {seconds:.2f} s away from that"]
