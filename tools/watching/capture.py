"""Opens live sources with FFmpeg, and nothing but what the command line names.

FFmpeg takes some contents for lists of other addresses (HLS, DASH, concat, SDP) and follows them
into files and other hosts. Here only formats that hold pictures themselves are accepted, only the
protocol that was named, and no redirection.
"""

import dataclasses
import errno
import itertools
import os
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np

from generation.media import timing
from generation.media.containers import FORMATS, UnreadableError, video_stream
from gvvad_jax.command import UserError
from tools.watching.addresses import Address

# Seconds until opening is given up, and without any data until a source counts as lost.
_TIMEOUT = (10.0, 10.0)
# The rate is measured on the first packets: of at least so many seconds, or so many packets, or
# those that came in so many seconds.
_PROBE_SECONDS, _PROBE_PACKETS, _PROBE_WAIT = 2.0, 200, 5.0
# Formats without time stamps of their own, for which FFmpeg makes 25 frames a second up.
_UNSTAMPED = {"h264", "hevc", "mjpeg", "mpjpeg", "mjpeg_2000", "smjpeg", "m4v", "av1", "obu"}
# Made-up streams in succession, after damage, after which a connection is given up.
_MOST_ERRORS = 100


class Refused(UserError):
    """A source that won't work however often it is tried: wrong address, password or format."""


class Lost(Exception):
    """A source that may work again later. The text holds no secret."""


class Arrived(NamedTuple):
    """A decoded frame.

    Attributes:
      frame: the frame.
      seconds: when it is shown, on the source's clock, from the first frame; None: it doesn't say.
      arrived: time.monotonic() when its packet had arrived.
    """

    frame: av.VideoFrame
    seconds: float | None
    arrived: float


@dataclasses.dataclass(frozen=True)
class Rate:
    """Frames per second of a source.

    Attributes:
      fps: measured, or what the source says where that fits.
      declared: what the source says; None if nothing.
    """

    fps: float
    declared: float | None


class Capture:
    """An open source; use it in one thread, as a context.

    Args:
      address: the source.
      stopping: ends waiting for packets when it is set.

    Attributes:
      finite: whether it is a file that ends, e.g. behind HTTP, and not a camera.
      rate: its frame rate.
      damaged: packets and frames that couldn't be decoded, or not completely.

    Raises:
      Refused: see there.
      Lost: see there.
    """

    def __init__(self, address: Address, stopping: threading.Event):
        self._address, self._stopping = address, stopping
        self.damaged = 0
        self._container = _open(address)
        try:
            self._stream = video_stream(self._container, address.name)
        except UnreadableError as error:
            self._container.close()
            raise Refused(str(error)) from error
        self._stream.thread_type = "NONE"  # More threads would hold frames back.
        self._time_base = float(self._stream.time_base or 0)
        self.finite = address.kind == "http" and (self._container.size or 0) > 0
        stamped = self._container.format.name.split(",")[0] not in _UNSTAMPED
        self._by_stamps = stamped and self._time_base > 0
        self._first: float | None = None
        try:
            self._ahead = self._probe()
        except BaseException:
            self._container.close()
            raise
        self.rate = self._measured()

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Arrived]:
        """Yields the frames, from the first complete one on, until the source ends.

        Raises:
          Lost: the connection broke off.
        """
        ahead, self._ahead = self._ahead, []
        for packet, arrived in itertools.chain(ahead, self._packets()):
            yield from self._decoded(packet, arrived)
        yield from self._decoded(None, time.monotonic())

    def _decoded(self, packet: av.Packet | None, arrived: float) -> Iterator[Arrived]:
        try:
            frames = self._stream.decode(packet)
        except Exception:  # PyAV raises many kinds for damaged packets.
            self.damaged += 1
            return
        for frame in frames:
            self.damaged += bool(frame.is_corrupt)
            # Before the first key frame, pictures have holes.
            if self._first is None and frame.is_corrupt:
                continue
            yield Arrived(frame, self._seconds(frame, arrived), arrived)

    def _seconds(self, frame: av.VideoFrame, arrived: float) -> float | None:
        if not self._by_stamps and (self.finite or self._address.kind == "pipe"):
            self._first = 0.0
            return None
        now = arrived
        if self._by_stamps:
            if frame.pts is None:
                return None
            now = frame.pts * self._time_base
        if self._first is None:
            self._first = now
        return now - self._first

    def _packets(self) -> Iterator[tuple[av.Packet, float]]:
        packets, errors = self._container.demux(self._stream), 0
        while not self._stopping.is_set():
            try:
                packet = next(packets)
            except StopIteration:
                return
            except IndexError:
                # Damage made a new stream up, which PyAV does not know.
                errors += 1
                self.damaged += 1
                if errors > _MOST_ERRORS:
                    raise Lost("its data are damaged") from None
                packets = self._container.demux(self._stream)
                continue
            except Exception as error:
                raise Lost(_reason(error)) from None
            errors = 0
            if packet.size and not packet.is_discard:
                yield packet, time.monotonic()

    def _probe(self) -> list[tuple[av.Packet, float]]:
        """Returns the first packets, which are kept to be decoded."""
        ahead: list[tuple[av.Packet, float]] = []
        begun = time.monotonic()
        try:
            for packet, arrived in self._packets():
                ahead.append((packet, arrived))
                first, last = ((p.dts if p.dts is not None else p.pts) or 0
                               for p in (ahead[0][0], packet))  # fmt: skip
                seconds = (last - first) * self._time_base if self._by_stamps else 0.0
                seconds = max(seconds, 0.0 if self.finite else arrived - begun)
                if seconds >= _PROBE_SECONDS and len(ahead) > 1:
                    break
                if len(ahead) >= _PROBE_PACKETS or arrived - begun > _PROBE_WAIT:
                    break
        except Lost:
            if not ahead:
                raise
        if not ahead:
            raise Lost("it sends no pictures")
        return ahead

    def _measured(self) -> Rate:
        context = self._stream.codec_context
        rates = [context.framerate]
        if self._by_stamps:
            rates = [self._stream.average_rate, self._stream.guessed_rate, *rates]
        declared = [float(rate) for rate in rates if rate]
        # Other rates are FFmpeg's guesses.
        said = float(self._stream.average_rate) if rates[0] and self._by_stamps else None
        if self._by_stamps:
            pts, dts = zip(*((packet.pts, packet.dts) for packet, _ in self._ahead), strict=True)
            try:
                stamps_F = timing.display_stamps(pts, dts, context.reorder_depth)
            except ValueError:
                stamps_F = None
            times_F = None if stamps_F is None else (stamps_F - stamps_F[0]) * self._time_base
        elif self.finite or self._address.kind == "pipe":
            times_F = None
        else:
            times_F = np.array([arrived for _, arrived in self._ahead])
            times_F -= times_F[0]
        if times_F is None or times_F[-1] <= 0:
            return Rate(next(iter(declared), 25.0), said)
        found = timing.timing(times_F, 0.0, declared, None)
        mean = (len(times_F) - 1) / float(times_F[-1])
        return Rate(float(found.fps) if found.even and found.fps else mean, said)


def _open(address: Address) -> av.container.InputContainer:
    # The rate is measured here; FFmpeg would take seconds for it.
    quick = {"analyzeduration": "1000000", "fpsprobesize": "0"}
    options = {"format_whitelist": ",".join(FORMATS), "pattern_type": "none", **quick}
    format, location = None, address.location
    if address.kind == "device":
        format, options = "v4l2", {}
    elif address.kind == "pipe":
        options["protocol_whitelist"] = "pipe" if location == "pipe:0" else "file"
    else:
        encrypted = location.partition(":")[0].lower() in ("https", "rtsps")
        transport = "tls,tcp" if encrypted else "tcp"
        if address.kind == "rtsp":
            format = "rtsp"
            options = {"format_whitelist": "rtsp", "protocol_whitelist": transport, **quick}
            options |= {"rtsp_transport": "tcp", "allowed_media_types": "video"}
        else:
            own = location.partition(":")[0].lower()
            options |= {"protocol_whitelist": f"{own},{transport}", "max_redirects": "0"}
            options |= {"reconnect": "1", "reconnect_delay_max": "10"}
        if encrypted and (authorities := os.environ.get("SSL_CERT_FILE")):
            options |= {"tls_verify": "1", "ca_file": authorities}
    try:
        # Without a limit for pipes, whose writer may begin much later.
        timeout = None if address.kind == "pipe" else _TIMEOUT
        return av.open(
            location, format=format, options=options, timeout=timeout, metadata_errors="replace"
        )
    except Exception as error:  # PyAV raises many kinds.
        reason = _reason(error)
        if getattr(error, "errno", None) == errno.EIO:
            # FFmpeg calls both so.
            if not _is_known(urllib.parse.urlsplit(location).hostname):
                reason = "no host of this name is known"
            elif address.kind == "http":
                reason += " (or a redirection, which isn't followed)"
        if permanent := _permanent(error):
            raise Refused(f"{address.name}: expected {permanent}") from None
        raise Lost(reason) from None


def _is_known(host: str | None) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, ValueError):
        return False
    return True


def _reason(error: Exception) -> str:
    # Never the whole text, which quotes the address with its password.
    if isinstance(error, av.error.ExitError):
        return f"no data for {_TIMEOUT[1]:g} s"
    return getattr(error, "strerror", None) or type(error).__name__


def _permanent(error: Exception) -> str | None:
    """Returns what is wrong with a source for good, after "expected"; None if it may change."""
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "a user and password that are accepted, found others or none; correct the address"
    if isinstance(error, av.error.HTTPClientError):
        return f"a source at this address, found none ({_reason(error)}); correct it"
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.EACCES, errno.ENODEV, errno.ENOTTY):
        return f"a device that can be opened, found none ({_reason(error)}); correct its name"
    if isinstance(error, av.error.InvalidDataError) or number == errno.EINVAL:
        return (
            "a stream of pictures, found something else, or a list of other addresses (HLS, DASH, "
            "SDP), which isn't followed; have FFmpeg receive it: ffmpeg -i ADDRESS -c copy -f "
            "mpegts - | gvvad watch ... -"
        )
    return None
