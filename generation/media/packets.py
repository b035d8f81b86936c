"""The packets of a video: how many frames they show, when, and how many are missing."""

import dataclasses
import os
import struct
from collections.abc import Iterator

import av
import numpy as np

from generation.media import timing

# Streams of pictures without time stamps: their demuxers say 25 frames per second.
_RAW = {
    *("h261", "h263", "h264", "hevc", "vvc", "evc", "av1", "obu", "m4v", "mpegvideo", "vc1"),
    *("cavsvideo", "avs2", "avs3", "dirac", "dnxhd", "mjpeg", "mjpeg_2000", "mpjpeg"),
    *("image2", "png_pipe", "jpeg_pipe", "tiff_pipe", "bmp_pipe", "webp_pipe"),
}
# Formats whose header declares the duration.
_DECLARES_SECONDS = {"mov", "matroska", "flv", "asf", "mxf"}
# Headers differ from the last frame's end by rounding.
_TOLERATED_FRAMES = 2
# Frames that may be missing around a cut, because they are stored after later ones.
_MOST_MISSING = 16
# Formats whose time stamps start again where recordings are joined.
_JOINED = {"mpegts", "mpeg"}
# Seconds: longer pauses are joints in such formats, jumps back are in every format.
_LONGEST_PAUSE, _JUMP_BACK = 10.0, 1.0
# Errors in succession after which a damaged container is given up.
_MOST_ERRORS = 100


class Packets:
    """The packets of a stream, until its end or until the container itself breaks off.

    Attributes:
      count: number of packets read so far that hold a frame to be shown.
      damaged: number of packets that could not be read or decoded, of incomplete frames, and of
        impossible time stamps so far.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        self._container, self._stream = container, stream
        self._format = set(container.format.name.split(","))
        context, raw = stream.codec_context, bool(self._format & _RAW)
        # Copied now: once the container is closed, a stream's own numbers are freed memory.
        self._codec, self._reorder_depth = context.name, context.reorder_depth
        self._time_base = 0.0 if raw else float(stream.time_base or 0)
        # Raw streams have the codec's rate at most.
        rates = [context.framerate]
        if not raw:
            rates = [stream.average_rate, stream.guessed_rate, *rates]
        self._rates = [float(rate) for rate in rates if rate]
        self._declared = stream.frames and stream.frames - sum(
            entry.is_discard for entry in stream.index_entries
        )
        self._declared_seconds, self._reads_all_streams = self._header_seconds()
        self.count = self.damaged = self._packets = 0
        self._pts: list[int | None] = []
        self._dts: list[int | None] = []
        self._frame_pts: list[int | None] = []
        self._last_dts: int | None = None
        self._offset = self._step = self._last_duration = 0
        self._last_stamp = -(1 << 63)
        self._end_seconds = 0.0

    def _header_seconds(self) -> tuple[float, bool]:
        """Returns the end that the header declares, 0 if none, and whether it is any stream's."""
        if self._declared or not self._format & _DECLARES_SECONDS:
            return 0.0, False
        try:
            hours, minutes, seconds = self._stream.metadata["DURATION"].split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds), False
        except (KeyError, ValueError):
            several = len(self._container.streams) > 1
            return (self._container.duration or 0) / av.time_base, several

    def __iter__(self) -> Iterator[av.Packet]:
        errors = 0
        packets = self._demux()
        while errors < _MOST_ERRORS:
            try:
                packet = next(packets)
            except StopIteration:
                self.damaged += "mpegts" in self._format and self._ends_within_a_packet()
                return
            except IndexError:
                # Damage made a new stream up, which PyAV does not know.
                self.damaged += not errors
                errors += 1
                packets = self._demux()
                continue
            except Exception:  # The container breaks off.
                self.damaged += 1
                return
            errors = 0
            if packet.stream_index != self._stream.index:
                self._reach(packet)
                continue
            # The last packet of a complete file is empty: it flushes the decoder.
            if packet.size and not packet.is_discard:
                self._note(packet)
            yield packet

    def _demux(self) -> Iterator[av.Packet]:
        if self._reads_all_streams:
            return self._container.demux()
        return self._container.demux(self._stream)

    def _reach(self, packet: av.Packet) -> None:
        if packet.pts is not None and packet.time_base:
            end = (packet.pts + (packet.duration or 0)) * float(packet.time_base)
            self._end_seconds = max(self._end_seconds, end)

    def _note(self, packet: av.Packet) -> None:
        self._join(packet)
        self._packets += 1
        if timing.is_shown(self._codec, memoryview(packet)):
            self.count += 1
            self._pts.append(packet.pts)
            self._dts.append(packet.dts)
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None and stamp >= self._last_stamp:
                self._last_stamp, self._last_duration = stamp, packet.duration or 0
        self._reach(packet)

    def _join(self, packet: av.Packet) -> None:
        """Moves stamps that start again, or after a pause in a joined format, to the others."""
        if packet.dts is None or not self._time_base:
            return
        if self._last_dts is not None:
            step = packet.dts + self._offset - self._last_dts
            seconds = step * self._time_base
            if seconds < -_JUMP_BACK or (seconds > _LONGEST_PAUSE and self._format & _JOINED):
                self._offset += self._step - step
            else:
                self._step = step
        packet.dts += self._offset
        if packet.pts is not None:
            packet.pts += self._offset
        self._last_dts = packet.dts

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
        except Exception:  # PyAV raises many kinds for damaged packets.
            self.damaged += 1
            return []
        self.damaged += sum(bool(frame.is_corrupt) for frame in frames)
        self._frame_pts += [frame.pts for frame in frames]
        return frames

    def undamaged_timing(self, listed: float | None) -> timing.Timing:
        """Returns when the frames are shown that an undamaged file has, once all are read.

        Args:
          listed: frames per second that the user's list names; None if it names none.
        """
        stamps_F = self._stamps()
        if stamps_F is None:
            own = next(iter(self._rates), None)
            even = timing.evenly(self.count, listed or own)
            return dataclasses.replace(even, file_fps=own)
        last_seconds = self._last_duration * self._time_base
        if self._declared and "avi" in self._format and self._is_complete_riff():
            # Dropped frames at the end: the last frame is shown until the declared end.
            last_seconds = max(last_seconds, (self._declared - self._last_dts) * self._time_base)
        return timing.timing(
            (stamps_F - stamps_F[0]) * self._time_base, last_seconds, self._rates, listed
        )

    def _stamps(self) -> np.ndarray | None:
        if not self._time_base or not self.count:
            return None
        try:
            # AVI has no pts; FFmpeg guesses them, wrongly around dropped frames.
            pts = [None] if "avi" in self._format else self._pts
            return timing.display_stamps(pts, self._dts, self._reorder_depth)
        except ValueError:
            self.damaged += 1
            return None

    def decoded_timing(self, undamaged: timing.Timing) -> timing.Timing:
        """Returns when the frames are shown that could be decoded, once all are decoded.

        Args:
          undamaged: the timing of the frames that an undamaged file has.
        """
        stamps_F = self._stamps()
        count = len(self._frame_pts)
        if count == self.count or stamps_F is None or None in self._frame_pts:
            return undamaged if count == self.count else timing.evenly(count, undamaged.fps)
        if not count:
            return timing.evenly(0, undamaged.fps)
        times_F = np.maximum.accumulate(np.array(self._frame_pts, np.float64))
        times_F = (times_F - stamps_F[0]) * self._time_base * undamaged.scale
        return timing.timing(times_F, 0.0, [undamaged.fps], undamaged.fps)

    def declared_frames(self, undamaged: timing.Timing) -> int:
        """Returns how many frames the container declares, without hidden ones, once all are read.

        If it declares none, these are the frames of the packets.

        Args:
          undamaged: when the frames of the packets are shown.
        """
        lost = 0
        if self._declared and "avi" in self._format:
            if not self._is_complete_riff():
                lost = self._declared - 1 - (self._last_dts or 0)
        elif self._declared:
            lost = self._declared - self._packets
        elif self._declared_seconds and undamaged.fps:
            end = self._end_seconds
            if "mov" in self._format and self._pts and None not in self._pts:
                end -= min(self._pts) * self._time_base
            rate = undamaged.fps * undamaged.scale
            if not undamaged.even:
                rate = self.count / undamaged.seconds
                # Where a file is cut, some of the last frames are missing between others.
                if self._rates and undamaged.uneven_seconds * self._rates[0] <= _MOST_MISSING:
                    rate = self._rates[0]
            lost = round((self._declared_seconds - end) * rate)
            lost = lost if lost > _TOLERATED_FRAMES else 0
        return self.count + max(0, lost)

    def _ends_within_a_packet(self) -> bool:
        """Returns whether an MPEG transport stream, which declares nothing, was cut off."""
        size = os.path.getsize(self._container.name)
        return all(size % packet_bytes for packet_bytes in (188, 192, 204))

    def _is_complete_riff(self) -> bool:
        """Returns whether an AVI file has all the bytes that it declares."""
        path = self._container.name
        end, size = 0, os.path.getsize(path)
        with open(path, "rb") as file:
            while end < size:
                file.seek(end)
                header = file.read(8)
                if len(header) < 8 or header[:4] != b"RIFF":
                    return end > 0
                end += 8 + struct.unpack("<I", header[4:])[0]
        return end == size
