"""The thread of a live source that receives: connects, decodes, prepares frames for encoders."""

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from generation.encode.recipe import Recipe
from generation.media.orientation import orientation
from generation.media.reading import Picture, Scalers, new_scalers
from gvvad_jax.command import UserError
from tools.watching import cells, renewing, thumbnails
from tools.watching.addresses import Address
from tools.watching.capture import Arrived, Capture, Lost, Refused
from tools.watching.sinks import pause
from tools.watching.ticks import Jump, Ticks, whole_snippets
from tools.watching.waiting import Begin, End, Gap, Look, Step, Waiting

if TYPE_CHECKING:
    import pathlib

# Seconds between attempts to connect: the first pause and the longest.
PAUSES = (1.0, 30.0)
# Frames wait at most so many seconds for the encoder. As many seconds' frames wait at most.
MOST_LATE = 3.0
# Frames that wait of a source that can be kept waiting.
_WAITING = 32
# Pictures for thumbnails: one of so many that motion is measured in.
_COLOURED = 3


@dataclasses.dataclass
class Counts:
    """What has happened to a source; written by its two threads, read by all.

    Attributes:
      connected: whether it sends pictures.
      reconnects: connections after the first one.
      fps: frames per second, measured.
      damaged: packets and frames that couldn't be decoded completely.
      dropped_snippets: snippets that were left out because encoding couldn't keep up.
    """

    connected: bool = False
    reconnects: int = 0
    fps: float | None = None
    damaged: int = 0
    dropped_snippets: int = 0


class Receiver(threading.Thread):
    """Receives a source until it ends or `stopping` is set; then it puts an End.

    Args:
      address: the source.
      recipe: says which frames are needed.
      waiting: where messages go.
      counts: gets what happens.
      report: takes lines for people.
      stopping: ends it.
    """

    def __init__(
        self,
        address: Address,
        recipe: Recipe,
        waiting: Waiting,
        counts: Counts,
        report: Callable[[str], None],
        stopping: threading.Event,
    ):
        super().__init__(name=f"receive {address.name}", daemon=True)
        self._address, self._recipe, self._waiting = address, recipe, waiting
        self._counts, self._report, self._stopping = counts, report, stopping
        self._zero: float | None = None  # time.monotonic() of the first frame.
        self._last = 0.0  # Seconds of the source that are given out.

    def run(self) -> None:
        """See threading.Thread."""
        fault: str | None = "it ended without a reason"
        try:
            fault = self._until_the_end()
        except UserError as error:
            fault = str(error)
        except Exception as error:  # A thread must not end silently.
            # It may quote the address with its secrets.
            said = str(error).replace(self._address.location, self._address.name)
            fault = f"{type(error).__name__}: {said}"
        finally:
            self._counts.connected = False
            self._waiting.put(End(fault))

    def _until_the_end(self) -> str | None:
        """Connects again and again; returns why the source won't ever work, or None."""
        attempt = -1
        while not self._stopping.is_set():
            finite, reason, given = self._address.kind == "pipe", "the stream ended", self._last
            try:
                with Capture(self._address, self._stopping) as capture:
                    finite = finite or capture.finite
                    self._receive(capture)
            except Refused as error:
                if self._zero is None:
                    return str(error)
                reason = str(error).partition("expected ")[2] or str(error)
            except Lost as error:
                reason = str(error)
                if finite and self._zero is not None:
                    self._report(f"the stream broke off: {reason}")
            self._counts.connected = False
            if (finite and self._zero is not None) or self._stopping.is_set():
                return None
            attempt = 0 if self._last > given else attempt + 1
            seconds = pause(attempt, *PAUSES)
            self._waiting.put(Gap())
            self._report(f"{reason}; connects again in {seconds:.0f} s")
            self._stopping.wait(seconds)
        return None

    def _receive(self, capture: Capture) -> None:
        """Hands the frames of one connection on, until it ends."""
        fps = capture.rate.fps
        declared = capture.rate.declared
        self._counts.fps = round(fps, 3)
        if declared and abs(declared / fps - 1) > 0.01:
            self._report(f"it says {declared:g} frames a second, its frames come at {fps:.4g}")
        may_wait = capture.finite or self._address.kind == "pipe"
        stretch: _Stretch | None = None
        reconnected = self._zero is not None
        for frame in capture.frames():
            if self._stopping.is_set():
                break
            if self._zero is None:
                self._zero = frame.arrived
            if not self._counts.connected:
                self._counts.connected = True
                self._counts.reconnects += reconnected
                if reconnected:
                    self._report("connected again")
            self._counts.damaged += capture.damaged
            capture.damaged = 0
            if stretch is None:
                stretch = _Stretch(self, frame, fps, may_wait, reconnected)
            try:
                stretch.add(frame)
            except Jump:
                stretch.finish()
                self._report("its time stamps jump; snippets begin anew")
                stretch = _Stretch(self, frame, fps, may_wait, True)
                stretch.add(frame)
            if other := stretch.other_rate():
                stretch.finish()
                self._report(f"its frames come at {other:.4g} a second now, not {fps:.4g}")
                fps = other
                self._counts.fps = round(fps, 3)
                stretch = _Stretch(self, frame, fps, may_wait, False)
                stretch.add(frame)
        self._counts.damaged += capture.damaged
        if stretch is not None:
            stretch.finish()

    def begin_at(self, arrived: float, may_wait: bool) -> float:
        """Returns where a frame lies on the source's clock that has no other relation to it."""
        assert self._zero is not None
        # The clock of a source that is kept waiting has nothing to do with ours.
        return self._last if may_wait else max(self._last, arrived - self._zero)


class _Stretch:
    """Frames of one connection, rate and clock."""

    def __init__(
        self, receiver: Receiver, first: Arrived, fps: float, may_wait: bool, reconnected: bool
    ):
        self._receiver, self._may_wait = receiver, may_wait
        recipe = receiver._recipe
        native = recipe.fps_policy == "native"
        self._rate = fps if native else float(recipe.fps_policy)
        self._ticks: Ticks[tuple[Picture, float]] = Ticks(self._rate, fps)
        self._native = native
        self._scalers: Scalers = new_scalers()
        turn = orientation(first.frame)
        self._size = turn.size(first.frame.width, first.frame.height)
        self._start = receiver.begin_at(first.arrived, may_wait)
        self._meter = cells.meter_for(recipe.encoder)
        self._look_every = max(1, round(self._rate * cells.PAIR_SECONDS))
        self._base = 0  # Tick of the first snippet since the last Begin.
        self._shown: tuple[Picture, float] | None = None  # At the newest tick.
        self._skips = False
        self._receiver._waiting.put(Begin(self._start, self._rate, reconnected))
        self._frames = renewing.Frames(recipe, self._rate)

    def add(self, frame: Arrived) -> None:
        """Takes the next frame; raises Jump if it doesn't belong here."""
        path: pathlib.Path = self._receiver._address.name  # type: ignore[assignment]
        picture = Picture(path, frame.frame, self._size, self._scalers)
        for tick, (shown, arrived) in self._ticks.add(frame.seconds, (picture, frame.arrived)):
            self._take(tick, shown, arrived)

    def other_rate(self) -> float | None:
        """Returns the rate if it has become another, and matters."""
        return self._ticks.other_rate() if self._native else None

    def finish(self) -> None:
        """Hands on what is left at the end of this clock."""
        for tick, (shown, arrived) in self._ticks.finish():
            self._take(tick, shown, arrived)
        count = self._ticks.count
        until = self._start + count / self._rate
        recipe, waiting = self._receiver._recipe, self._receiver._waiting
        if self._skips:
            whole = whole_snippets(count, recipe.snippet_frames, recipe.snippet_stride)
            waiting.put(Begin(until, self._rate, left_out_to=whole))
        elif self._shown is not None:
            picture, arrived = self._shown
            ticks = count - self._base
            works = self._frames.finish(ticks, picture)
            waiting.put(Step(ticks, works, None, arrived, True))
        self._receiver._last = until

    def _take(self, tick: int, picture: Picture, arrived: float) -> None:
        self._shown = picture, arrived
        waiting, recipe = self._receiver._waiting, self._receiver._recipe
        most = _WAITING if self._may_wait else max(_WAITING, int(MOST_LATE * self._rate))
        if self._skips:
            # Later snippets lie where they would have lain anyway.
            number, rest = divmod(tick, recipe.snippet_stride)
            if rest or waiting.late() > MOST_LATE / 3:
                return
            self._skips, self._base = False, tick
            seconds = self._start + tick / self._rate
            waiting.put(Begin(seconds, self._rate, left_out_to=number))
            self._frames = renewing.Frames(recipe, self._rate)
        elif not waiting.has_room(most, None if self._may_wait else MOST_LATE):
            self._skips = True
            return
        works = self._frames.take(tick - self._base, picture)
        look = self._look(tick, picture)
        self._receiver._last = self._start + (tick + 1) / self._rate
        waiting.put(Step(tick - self._base + 1, works, look, arrived))

    def _look(self, tick: int, picture: Picture) -> Look | None:
        number, rest = divmod(tick - self._base, self._look_every)
        if rest:
            return None
        rgb_HxWx3 = thumbnails.small_rgb(picture) if number % _COLOURED == 0 else None
        return Look(self._start + tick / self._rate, self._meter.small(picture), rgb_HxWx3)
