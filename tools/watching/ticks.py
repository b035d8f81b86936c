"""The frames of a live source on a steady clock, as encoding sees those of a file.

A snippet has a number of frames at a rate. Tick k of the clock shows the newest frame at its middle
(see reading.Reader.shown_at), so that frames which come late, twice or not at all change no times.
"""

import math
from collections.abc import Iterator
from typing import Generic, TypeVar

Frame = TypeVar("Frame")
# Time stamps are rounded to milliseconds at worst.
_STAMP_SECONDS = 0.001
# Seconds: longer pauses, and jumps back, are where a source began anew (as in media/packets.py).
LONGEST_PAUSE, JUMP_BACK = 10.0, 1.0
# The rate is measured again each so many seconds; another than this much is another rate.
_AGAIN_SECONDS = 30.0
_OTHER_RATE = 0.15


class Jump(Exception):
    """The time stamps jump: the source began anew."""


class Ticks(Generic[Frame]):
    """Which frame is shown at each tick.

    Args:
      rate: ticks per second.
      fps: frames per second of the source, for those without time stamps.

    Attributes:
      count: ticks that are settled so far.
      seconds: when the newest frame is shown, from the first one.
      measured: frames per second of the last half minute; None before.
    """

    def __init__(self, rate: float, fps: float):
        self._rate, self._fps = rate, fps
        self._newest: Frame | None = None
        self.count = 0
        self.seconds = 0.0
        self.measured: float | None = None
        self._window = 0.0, 0  # Start of the measurement, and frames since.
        self._first: float | None = None

    def add(self, seconds: float | None, frame: Frame) -> Iterator[tuple[int, Frame]]:
        """Takes the next frame; yields the ticks that it settles, with the frame before it.

        Args:
          seconds: when it is shown; None for 1 / fps after the one before.
          frame: anything.

        Raises:
          Jump: the frame doesn't belong to those before it.
        """
        if seconds is None:
            seconds = self.seconds + 1 / self._fps if self._first is not None else 0.0
        if self._first is None:
            self._first = seconds
        seconds -= self._first
        if self._newest is not None:
            if not -JUMP_BACK <= seconds - self.seconds <= LONGEST_PAUSE:
                raise Jump
            seconds = max(seconds, self.seconds)
            yield from self._until(seconds)
        self._newest, self.seconds = frame, seconds
        begun, frames = self._window
        self._window = begun, frames + 1
        if seconds - begun >= _AGAIN_SECONDS:
            self.measured = frames / (seconds - begun)
            self._window = seconds, 1

    def finish(self) -> Iterator[tuple[int, Frame]]:
        """Yields the rest of the ticks at the source's end; the last frame is shown as others."""
        if self._newest is None:
            return
        end = max(1, round((self.seconds + 1 / self._fps) * self._rate))
        while self.count < end:
            yield self.count, self._newest
            self.count += 1

    def other_rate(self) -> float | None:
        """Returns the measured rate if it is clearly another than the source's; else None."""
        if self.measured is None or abs(self.measured / self._fps - 1) <= _OTHER_RATE:
            return None
        return self.measured

    def _until(self, seconds: float) -> Iterator[tuple[int, Frame]]:
        assert self._newest is not None
        # Ticks whose middle lies before the next frame.
        while (self.count + 0.5) / self._rate + _STAMP_SECONDS < seconds:
            yield self.count, self._newest
            self.count += 1


def whole_snippets(ticks: int, frames: int, stride: int) -> int:
    """Returns how many snippets of full length lie in so many ticks."""
    return max(0, math.floor((ticks - frames) / stride) + 1)
