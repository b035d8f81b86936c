"""Reading and writing of video files with PyAV.

Frames are RGB, uint8, [H, W, 3], and upright: rotation in the metadata is applied in quarter turns.
Reading is honest about damage: a file cut short decodes to fewer frames than its container
declares, without any error from the decoder, so both counts are returned and the caller decides.
On several threads a decoder loses frames around damage, and what it invents for lost parts of a
picture differs from run to run: damaged files are decoded again on one. Frames are taken to be
evenly spaced; how far their time stamps are off from that is returned too.
Writing is reproducible bit for bit: x264 runs on one thread, because its threaded rate control
isn't deterministic, and without its macroblock tree, which depends on memory that was never written
(small clips then differ from run to run, even in decoded pixels).
"""

import collections
import contextlib
import dataclasses
import errno
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

import av
import numpy as np

from gvvad_jax.command import UserError


class UnreadableError(UserError):
    """A file or folder of which nothing can be decoded."""


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
# FFmpeg's names. Playlists and their like are left out: what they name would be read wherever it
# lies. Sound is here to be told that it is no video.
_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "live_flv", "kux", "asf", "asf_o", "ogg"),
    *("mxf", "nut", "dv", "rm", "wtv", "swf", "nuv", "nsv", "pva", "ty", "gxf", "ivf", "obu"),
    *("h261", "h263", "h264", "hevc", "vvc", "evc", "av1", "m4v", "mpegvideo", "vc1", "vc1test"),
    *("cavsvideo", "avs2", "avs3", "dirac", "dnxhd", "mjpeg", "mjpeg_2000", "mpjpeg", "smjpeg"),
    *("yuv4mpegpipe", "gif", "apng", "dhav", "ifv", "hxvs", "lmlm4", "lvf"),
    *("image2", "png_pipe", "jpeg_pipe", "tiff_pipe", "bmp_pipe", "webp_pipe"),
    *("mp3", "wav", "flac", "aac"),
)
_OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a container says of its video stream, before anything is decoded.

    Attributes:
      fps: average frames per second, or None where the container doesn't say.
      declared_frames: the container's frame count without what its edit list cuts off, or 0
        where it doesn't say.
      height: pixels.
      width: pixels.
    """

    fps: float | None
    declared_frames: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Video:
    """A decoded video.

    Attributes:
      frames_TxHxWx3: RGB uint8.
      fps: frames per second, None where the container doesn't say.
      declared_frames: what the container promised, its packets where it doesn't say; differs from
        `len(frames)` on damage.
      damaged: packets that raised, and frames with parts that the decoder invented.
      uneven_seconds: how far time stamps are off from frames evenly spaced at `fps`, at most.
    """

    frames_TxHxWx3: np.ndarray
    fps: float | None
    declared_frames: int
    damaged: int
    uneven_seconds: float = 0.0


class Reader:
    """A video file, or a folder of frames by their names, of which chosen ones are decoded.

    Opening it goes through the packets without decoding them, which says how many frames a sound
    file has. `frames` may run more than once.

    Args:
      path: a file, or a folder of images.

    Attributes:
      fps, declared_frames, uneven_seconds: see Video.
      num_frames: that the packets hold; 0 for a file without any.
      height, width: of a frame as it is stored.
      decoded_frames, damaged: of the last `frames` that came to its end; see Video.

    Raises:
      UnreadableError: it isn't a video, or a folder without a readable image.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._images = images(self.path) if self.path.is_dir() else None
        self.decoded_frames = self.damaged = 0
        if self._images is not None:
            first = next(filter(None, map(_decode_image, self._images)), None)
            self.num_frames = self.declared_frames = len(self._images)
            if first is None:
                raise nothing_decoded(self.path, self.num_frames)
            self.fps, self.uneven_seconds = None, 0.0
            self.height, self.width = first.height, first.width
            return
        with opened(self.path) as (container, stream):
            info = _stream_info(stream)
            packets = _Packets(container, stream)
            collections.deque(packets, maxlen=0)
            self.uneven_seconds = packets.uneven_seconds()
        self.fps, self.height, self.width = info.fps, info.height, info.width
        self.num_frames = packets.count
        self.declared_frames = info.declared_frames or self.num_frames

    def frames(
        self, wanted: Iterable[int], *, threads: bool = True
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames, in order; the others are decoded but not converted.

        Args:
          wanted: indices, rising; those that don't exist don't come.
          threads: decode on several.

        Yields:
          (index, frame [H, W, 3]). When this has come to its end, `decoded_frames` and `damaged`
          are known. From then on a folder is without the images that can't be read.
        """
        if self._images is not None:
            yield from self._wanted_images(wanted)
            return
        wanted, count, size = iter(wanted), 0, None
        upcoming = next(wanted, None)
        with opened(self.path) as (container, stream):
            stream.thread_type = "AUTO" if threads else "NONE"
            packets = _Packets(container, stream)
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
                frame = _decode_image(self._images[index])
                if frame is None:
                    self.damaged += 1
                    continue
                size = size or _upright_size(frame)
                yield index, _rgb(frame, size)
        if self.damaged:
            sound = [path for path in self._images if _decode_image(path) is not None]
            self.damaged, self._images = len(self._images) - len(sound), sound
        self.decoded_frames = len(self._images)


def _stream_info(stream: av.VideoStream) -> VideoInfo:
    fps = float(stream.average_rate) if stream.average_rate else None
    frames = stream.frames and stream.frames - sum(e.is_discard for e in stream.index_entries)
    return VideoInfo(fps, frames, stream.codec_context.height, stream.codec_context.width)


def probe(path: str | os.PathLike) -> VideoInfo:
    """Reads the header of a video file. Raises UnreadableError when it isn't a video."""
    with opened(path) as (_, stream):
        return _stream_info(stream)


@contextlib.contextmanager
def opened(
    path: str | os.PathLike,
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A container and its first video stream, the cover of a piece of music being none.

    Raises:
      UnreadableError: it can't be opened, may name other files, or holds no such stream.
    """
    try:
        container = av.open(str(path), options=_OPTIONS)
    except (av.FFmpegError, OSError) as error:
        found = f"something PyAV can't open ({error}); re-download or remove it"
        if error.errno == errno.EINVAL:
            found = (
                "a format that isn't read: it may name other files, or is no video's; convert it "
                "to .mp4 or remove it"
            )
        raise UnreadableError(f"{path}: expected a video file, found {found}") from error
    with container:
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
        if stream is None or stream.codec_context is None:
            only_cover = stream is None and container.streams.video
            found = "only a cover picture" if only_cover else "none that can be decoded"
            raise UnreadableError(
                f"{path}: expected a video stream, found {found}; remove it from the list"
            )
        yield container, stream


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def read(path: str | os.PathLike) -> Video:
    """Decodes a whole video file, or a folder of frames in the order of their names.

    Damaged packets are skipped and counted, so what can be read is read.

    Args:
      path: a file, or a folder of images.

    Returns:
      The video; `frames_TxHxWx3` has at least one frame.

    Raises:
      UnreadableError: when no frame at all can be decoded.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _read_folder(path)
    video, packets = _read_file(path, threads=True)
    if video.damaged or len(video.frames_TxHxWx3) != packets:
        video, _ = _read_file(path, threads=False)
    if not len(video.frames_TxHxWx3):
        raise nothing_decoded(path, video.declared_frames)
    return video


def _read_file(path: pathlib.Path, threads: bool) -> tuple[Video, int]:
    """(what could be decoded, number of packets)."""
    frames, size = [], None
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO" if threads else "NONE"
        info = _stream_info(stream)
        packets = _Packets(container, stream)
        for frame in packets.decoded():
            size = size or _upright_size(frame)
            frames.append(_rgb(frame, size))
    frames_TxHxWx3 = np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)
    declared, uneven = info.declared_frames or packets.count, packets.uneven_seconds()
    return Video(frames_TxHxWx3, info.fps, declared, packets.damaged, uneven), packets.count


def nothing_decoded(path: str | os.PathLike, declared_frames: int) -> UnreadableError:
    """What is to be told of a file without a single readable frame."""
    return UnreadableError(
        f"{path}: expected {declared_frames or 'some'} frames, decoded none; "
        "the file is damaged: re-encode or remove it"
    )


def _rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """A frame upright, in RGB and of this size, which is that of the first one."""
    turns = _quarter_turns(frame)
    stored_size = size[::-1] if turns % 2 else size
    if (frame.width, frame.height) != stored_size:
        frame = frame.reformat(*stored_size, format="rgb24")
    image_HxWx3 = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image_HxWx3, turns)) if turns else image_HxWx3


def _quarter_turns(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """(width, height)."""
    size = frame.width, frame.height
    return size[::-1] if _quarter_turns(frame) % 2 else size


class _Packets:
    """A stream's packets until the end, or until the container itself breaks off.

    Attributes:
      count: of the packets that hold a frame to be shown, so far.
      damaged: packets that can't be read or decoded and frames that aren't whole, so far.
    """

    def __init__(self, container, stream):
        self._container, self._stream = container, stream
        # Now: once the container is closed, a stream's own numbers are freed memory.
        self._rate, self._time_base = stream.average_rate, stream.time_base
        self.count = self.damaged = 0
        self._times: list[int | None] = []

    def __iter__(self) -> Iterator[av.Packet]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.damaged += 1
                return
            # The last packet of a whole file is empty: it flushes the decoder.
            if packet.size and not packet.is_discard:
                self.count += 1
                self._times.append(packet.pts)
            yield packet

    def decoded(self) -> Iterator[av.VideoFrame]:
        packet = None
        for packet in self:
            yield from self._decoded(packet)
        if packet is not None and packet.size:
            # The container broke off: the decoder still holds frames.
            yield from self._decoded(None)

    def _decoded(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        try:
            frames = self._stream.decode(packet)
        except av.FFmpegError:
            self.damaged += 1
            return []
        self.damaged += sum(bool(frame.is_corrupt) for frame in frames)
        return frames

    def uneven_seconds(self) -> float:
        """See Video; 0 where there are no time stamps or no rate."""
        known = self._rate and self._time_base and None not in self._times
        if not known or len(self._times) < 2:
            return 0.0
        times_F = np.sort(np.array(self._times, np.float64)) * float(self._time_base)
        even_F = np.arange(len(times_F)) / float(self._rate)
        return float(np.abs(times_F - times_F[0] - even_F).max())


def in_order(name: str) -> tuple[str, str]:
    """What names of frames are sorted by: frame2 before frame10."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(255), name), name


def images(folder: pathlib.Path) -> list[pathlib.Path]:
    """A folder's frames in order; raises UnreadableError where there is none."""
    try:
        paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise UnreadableError(
            f"{folder}: expected a folder of frames, found one that can't be read "
            f"({error.strerror}); correct its permissions or remove it from the list"
        ) from error
    paths.sort(key=lambda path: in_order(path.name))
    if not paths:
        raise UnreadableError(
            f"{folder}: expected a folder of frames ({', '.join(IMAGE_SUFFIXES)}), found none"
        )
    return paths


def _decode_image(path: pathlib.Path) -> av.VideoFrame | None:
    """None for a file that isn't a whole picture."""
    try:
        with opened(path) as (container, stream):
            return next(container.decode(stream), None)
    except (UnreadableError, av.FFmpegError):
        return None


def _read_folder(folder: pathlib.Path) -> Video:
    paths = images(folder)
    found = [frame for frame in map(_decode_image, paths) if frame is not None]
    if not found:
        raise nothing_decoded(folder, len(paths))
    frames = [_rgb(frame, _upright_size(found[0])) for frame in found]
    return Video(np.stack(frames), None, len(paths), len(paths) - len(found))
