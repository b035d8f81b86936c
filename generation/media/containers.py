"""Video containers, opened with PyAV: which formats are accepted, and their packets."""

import contextlib
import errno
import os
from collections.abc import Iterator

import av
import numpy as np

from gvvad_jax.command import UserError

# FFmpeg's names. Playlists and similar formats are left out, because FFmpeg would read whatever
# files they name. Audio formats are accepted so that the error can say that there is no video.
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


class UnreadableError(UserError):
    """Nothing can be decoded of a file or folder."""


def nothing_decoded(path: str | os.PathLike, declared_frames: int) -> UnreadableError:
    """Returns the error for a file without a single readable frame."""
    return UnreadableError(
        f"{path}: expected {declared_frames or 'some'} frames, decoded none; "
        "the file is damaged: re-encode or remove it"
    )


@contextlib.contextmanager
def opened(
    path: str | os.PathLike,
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a container and yields it with its first video stream; cover pictures do not count.

    Raises:
      UnreadableError: the file cannot be opened, may name other files, or has no video stream.
    """
    try:
        container = av.open(str(path), options=_OPTIONS)
    except (av.FFmpegError, OSError) as error:
        problem = f"something PyAV can't open ({error}); re-download or remove it"
        if error.errno == errno.EINVAL:
            problem = (
                "a format that is not accepted, because it may name other files or is not a "
                "video's; convert it to .mp4 or remove it"
            )
        raise UnreadableError(f"{path}: expected a video file, found {problem}") from error
    with container:
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
        if stream is None or stream.codec_context is None:
            only_cover = stream is None and container.streams.video
            problem = "only a cover picture" if only_cover else "none that can be decoded"
            raise UnreadableError(
                f"{path}: expected a video stream, found {problem}; remove it from the list"
            )
        yield container, stream


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def declared_frames(stream: av.VideoStream) -> int:
    """Returns the container's frame count without what its edit list cuts off; 0 if unknown."""
    return stream.frames and stream.frames - sum(e.is_discard for e in stream.index_entries)


class Packets:
    """The packets of a stream, until its end or until the container itself breaks off.

    Attributes:
      fps: average frames per second; None if the container does not declare it.
      count: number of packets read so far that hold a frame to be shown.
      damaged: number of packets that could not be read or decoded and of incomplete frames so far.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        self._container, self._stream = container, stream
        # Copied now: once the container is closed, a stream's own numbers are freed memory.
        self.fps = float(stream.average_rate) if stream.average_rate else None
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
            # The last packet of a complete file is empty: it flushes the decoder.
            if packet.size and not packet.is_discard:
                self.count += 1
                self._times.append(packet.pts)
            yield packet

    def decoded(self) -> Iterator[av.VideoFrame]:
        """Yields every frame that can be decoded."""
        packet = None
        for packet in self:
            yield from self._decode(packet)
        if packet is not None and packet.size:
            # The container broke off: the decoder still holds frames.
            yield from self._decode(None)

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        try:
            frames = self._stream.decode(packet)
        except av.FFmpegError:
            self.damaged += 1
            return []
        self.damaged += sum(bool(frame.is_corrupt) for frame in frames)
        return frames

    def uneven_seconds(self) -> float:
        """Returns how far time stamps are from evenly spaced frames; 0 without stamps or rate."""
        known = self._rate and self._time_base and None not in self._times
        if not known or len(self._times) < 2:
            return 0.0
        times_F = np.sort(np.array(self._times, np.float64)) * float(self._time_base)
        even_F = np.arange(len(times_F)) / float(self._rate)
        return float(np.abs(times_F - times_F[0] - even_F).max())
