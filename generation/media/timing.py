"""When a video's frames are shown: their time stamps, and the frame rate that fits these."""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Rates above this one come from broken headers or count ticks of a clock, not frames.
_MOST_FPS = 1000.0
# Codecs reorder frames over at most 16; stamps that need more are damaged.
_MOST_REORDERED = 64


@dataclasses.dataclass(frozen=True)
class Timing:
    """When frames are shown.

    Attributes:
      fps: frames per second; None if unknown.
      times_F: float64 seconds at which each frame is first shown; None if unknown.
      seconds: duration until the end of the last frame; None if unknown.
      even: whether frame k is shown at k / fps and the last one as long as the others.
      uneven_seconds: largest deviation of the time stamps from frames that are evenly spaced at
        the file's own rate, or at `fps` where the time stamps are kept.
      file_fps: what the file says, whatever the user's list names; None if nothing.
      scale: factor from the seconds of time stamps to those of `times_F`. It is not 1 if the user
        gives another rate to a file with evenly spaced frames.
    """

    fps: float | None
    times_F: np.ndarray | None
    seconds: float | None
    even: bool = True
    uneven_seconds: float = 0.0
    scale: float = 1.0
    file_fps: float | None = None


def evenly(count: int, fps: float | None) -> Timing:
    """Returns the timing of `count` frames without time stamps."""
    if not fps:
        return Timing(None, None, None)
    return Timing(fps, np.arange(count) / fps, count / fps)


def timing(
    times_F: np.ndarray, last_seconds: float, rates: Sequence[float], listed: float | None
) -> Timing:
    """Returns the timing of frames with time stamps.

    Frames are evenly spaced if each is less than half a frame off. Then they are taken to be
    exactly so, at the listed rate if there is one. Otherwise the time stamps are kept.

    Args:
      times_F: seconds at which each frame is first shown, rising, at least one. 0 is when the
        first frame of the undamaged file is shown.
      last_seconds: how long the last frame is shown; 0 if unknown.
      rates: what the file says about its rate, the most reliable first.
      listed: the rate that the user's list names.
    """
    count = len(times_F)
    rates = [rate for rate in rates if 0 < rate <= _MOST_FPS]
    # The listed rate first: a file that fits it has no other.
    said = next(iter(rates), None)
    candidates = [listed, *rates] if listed else rates
    fitting = [rate for rate in candidates if _uneven(times_F, rate) <= 0.5 / rate]
    if times_F[-1] > times_F[0]:
        mean = float((count - 1) / (times_F[-1] - times_F[0]))
        rates.append(mean)
        # Stricter, because a single dropped frame must not change the rate.
        if _uneven(times_F, mean) <= 0.25 / mean:
            fitting.append(mean)
    own = next(iter([*fitting, *rates]), None)
    fps = listed or own
    if not own or not fps:
        return evenly(count, fps)
    last_seconds = last_seconds or 1 / own
    even = bool(fitting) and last_seconds <= 2 / own
    if even:
        uneven_seconds, scale = _uneven(times_F, own), own / fps
        file_fps = own if own != listed else said
        times_F, seconds = np.arange(count) / fps, count / fps
    else:
        uneven_seconds, scale, file_fps = _uneven(times_F, fps), 1.0, said
        seconds = float(times_F[-1] + last_seconds)
    return Timing(fps, times_F, seconds, even, uneven_seconds, scale, file_fps)


def _uneven(times_F: np.ndarray, rate: float) -> float:
    return float(np.abs(times_F - np.arange(len(times_F)) / rate).max())


def display_stamps(
    pts: Sequence[int | None], dts: Sequence[int | None], reorder_depth: int
) -> np.ndarray | None:
    """Returns when frames are shown, rising, from the stamps of packets in the order of decoding.

    Args:
      pts, dts: of each packet, in any unit; dts are used where pts are incomplete.
      reorder_depth: number of frames that the decoder holds back.

    Returns:
      float64 [F] in the same unit; None if the stamps are incomplete.

    Raises:
      ValueError: the stamps contradict each other.
    """
    if None not in pts:
        stamps_F = np.array(pts, np.float64)
        order_F = np.argsort(stamps_F, kind="stable")
        if np.abs(order_F - np.arange(len(order_F))).max(initial=0) > _MOST_REORDERED:
            raise ValueError("pts: expected frames to be reordered over a few others only")
        return stamps_F[order_F]
    if None in dts:
        return None
    # Frames leave the decoder `reorder_depth` packets later than they enter it.
    stamps_F = np.array(dts, np.float64)
    if (np.diff(stamps_F) < 0).any():
        raise ValueError("dts: expected stamps that rise")
    depth = min(reorder_depth, len(stamps_F) - 1)
    step = np.median(np.diff(stamps_F)) if len(stamps_F) > 1 else 1
    return np.concatenate([stamps_F[depth:], stamps_F[-1] + step * np.arange(1, depth + 1)])


def is_shown(codec: str, packet: memoryview) -> bool:
    """Returns whether a packet holds a frame to be shown; VP8 and VP9 have hidden ones.

    Hidden frames (alternate references) are decoded only for others to refer to.

    Args:
      codec: FFmpeg's name.
      packet: the packet's data, not empty.
    """
    if codec == "vp8":
        return bool(packet[0] & 0x10)
    if codec == "vp9" and packet[-1] & 0xE0 != 0xC0:  # Superframes end with a frame to be shown.
        # The header has two marker bits, two (in profile 3 three) bits of the profile, and then
        # show_existing_frame, frame_type and show_frame.
        bits = packet[0] if packet[0] & 0x30 == 0x30 else packet[0] >> 1
        return bool(bits & 0b101)
    return True
