"""What goes from the thread that receives a live source to the one that encodes it."""

import collections
import threading
import time
from typing import NamedTuple

import numpy as np

from tools.watching.renewing import Work


class Look(NamedTuple):
    """A picture for thumbnails.

    Attributes:
      seconds: when it is shown.
      small_HxW: what cells.Meter measures.
      rgb_HxWx3: in a thumbnail's size; None for most.
    """

    seconds: float
    small_HxW: np.ndarray
    rgb_HxWx3: np.ndarray | None


class Begin(NamedTuple):
    """Snippets begin anew, number 0 at `seconds`.

    Attributes:
      seconds: on the source's clock.
      rate: ticks per second.
      reconnected: whether something else may be seen now than before.
      left_out_to: where encoding couldn't keep up, the number that snippet 0 would have had; those
        from the last one on were left out.
    """

    seconds: float
    rate: float
    reconnected: bool = False
    left_out_to: int | None = None


class Step(NamedTuple):
    """Work of one tick.

    Attributes:
      ticks: ticks so far since Begin, this one included.
      works: for encoders.
      look: for thumbnails, of some ticks.
      arrived: time.monotonic() when the frame had arrived.
      last: whether the source ends here, or begins anew.
    """

    ticks: int
    works: list[Work]
    look: Look | None
    arrived: float
    last: bool = False


class Gap(NamedTuple):
    """The connection is lost; another is tried."""


class End(NamedTuple):
    """The source has ended; why, if that is a fault."""

    fault: str | None


Message = Begin | Step | Gap | End


class Waiting:
    """What waits between the two threads of a source."""

    def __init__(self) -> None:
        self._messages: collections.deque[tuple[float, Message]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, message: Message) -> None:
        """Adds a message."""
        with self._changed:
            if not self._closed:
                self._messages.append((time.monotonic(), message))
            self._changed.notify_all()

    def has_room(self, most: int, seconds: float | None) -> bool:
        """Waits until fewer messages than `most` wait; returns False if one waits for too long.

        Args:
          most: number of messages.
          seconds: how long one may wait; None for any time.
        """
        with self._changed:
            while True:
                if self._closed:
                    return True
                if seconds is not None and self._late() > seconds:
                    return False
                if len(self._messages) < most:
                    return True
                self._changed.wait(0.1)

    def get(self, seconds: float) -> Message | None:
        """Returns the next message; None if there is none for a while."""
        with self._changed:
            if not self._messages:
                self._changed.wait(seconds)
            if not self._messages:
                return None
            self._changed.notify_all()
            return self._messages.popleft()[1]

    def close(self) -> None:
        """Says that nobody takes messages any more."""
        with self._changed:
            self._closed = True
            self._messages.clear()
            self._changed.notify_all()

    def late(self) -> float:
        """Returns for how many seconds the first message has waited."""
        with self._changed:
            return self._late()

    def _late(self) -> float:
        return time.monotonic() - self._messages[0][0] if self._messages else 0.0
