"""Watches live sources: several in one process, events as they happen, for as long as they last."""

import collections
import dataclasses
import json
import math
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

import tqdm

from gvvad_jax import drift
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.store import alignment, folders
from gvvad_jax.store.files import write_json
from tools.watching import addresses
from tools.watching.alarms import Alarms, wall_clock
from tools.watching.detector import Detector, open_detector
from tools.watching.live_options import LiveOptions
from tools.watching.options import WatchOptions
from tools.watching.receiving import Counts, Receiver
from tools.watching.renewing import Snippet, Snippets
from tools.watching.sinks import Sink
from tools.watching.ticks import whole_snippets
from tools.watching.waiting import Begin, End, Gap, Step, Waiting

KIND = "watched sources"
EVENTS, STATUS = "events.jsonl", "status.json"
# Seconds between two states of status.json.
_STATUS_SECONDS = 5.0
# Seconds between two lines about snippets that were left out.
_TOLD_SECONDS = 60.0
# Seconds that sources have to end when they are asked to.
_LAST_SECONDS = 10.0


def watch(arguments: Sequence[str], options: WatchOptions, live: LiveOptions, models: Any) -> None:
    """Watches sources until all have ended, or SIGINT or SIGTERM arrives; prints a summary.

    Args:
      arguments: ADDRESS or NAME=ADDRESS of each; see addresses.parse.
      options: the run, and where to write.
      live: how many snippets a score looks at, and where events are sent.
      models: where the encoder's checkpoints are, an options.ModelOptions.

    Raises:
      UserError: a fault of the command line or the run.
      Interrupted: every source failed.
      SystemExit: status 3; some sources failed, which were named.
    """
    sources = addresses.parse(arguments)
    folders.require_own(options.out, KIND)
    sinks = live.sinks([source.name for source in sources])
    detector = open_detector(options, models)
    window = live.window
    if window is None and not detector.model.config.causal_window:
        window = 64
    if said := of_threshold(detector, window):
        print(f"warning: {options.workdir}: {said}", file=sys.stderr)
    folder = folders.claim(options.out, KIND)
    busy = folders.busy(options.out, "write there", ", or give another --out")
    with folders.locked(folder / ".lock", busy), open(folder / EVENTS, "a") as lines:
        _end_line(folder / EVENTS)
        outlet = Outlet(lines, sinks)
        lock = threading.Lock()
        watchers = [Watcher(source, detector, window, folder, outlet, lock) for source in sources]
        for sink in sinks:
            sink.start()
        try:
            summary = _run(watchers, sinks, folder)
        finally:
            for sink in sinks:
                sink.close()
    summary["sinks"] = {sink.name: sink.counts() for sink in sinks}
    write_json(folder / STATUS, summary)
    print(json.dumps({"out": os.fspath(options.out), **summary}))
    failed = [watcher.name for watcher in watchers if watcher.fault]
    if len(failed) == len(watchers):
        raise Interrupted(f"no source of {len(failed)} could be watched; the reasons stand above")
    if failed:
        sys.exit(3)


def _end_line(path: pathlib.Path) -> None:
    """Ends a line that a full disk or a kill has cut short, so that the next one is whole."""
    with open(path, "rb+") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 1))
        if file.read() not in (b"", b"\n"):
            file.write(b"\n")


def of_threshold(detector: Detector, window: int | None) -> str | None:
    """Says in one line that the threshold rests on other scores than those of a window.

    Args:
      detector: the detector.
      window: snippets that a score looks at; None for the run's own.
    """
    rate, own = detector.threshold.alarms_per_hour, detector.model.config.causal_window
    if rate is None or window in (None, own):
        return None
    seen = f"the last {own} snippets" if own else "whole videos"
    return (
        f"the threshold was set on scores of {seen}, not of the last {window}: alarms may be more "
        f"or fewer than the {rate:.3g} an hour of its footage"
    )


def _run(
    watchers: "Sequence[Watcher]", sinks: Sequence[Sink], folder: pathlib.Path
) -> dict[str, Any]:
    """Runs until all sources have ended, or the process is asked to end; returns the status."""
    import cv2

    # Sources run side by side; more threads in each would only slow them down.
    cv2.setNumThreads(1)
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        for watcher in watchers:
            watcher.start()
        written = 0.0
        while not asked.is_set() and any(watcher.is_alive() for watcher in watchers):
            if time.monotonic() - written >= _STATUS_SECONDS:
                written = time.monotonic()
                write_json(folder / STATUS, _status(watchers, sinks))
            asked.wait(0.2)
    except KeyboardInterrupt:  # How watching usually ends.
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        for watcher in watchers:
            watcher.stop()
        end = time.monotonic() + _LAST_SECONDS
        for watcher in watchers:
            watcher.join(max(0.0, end - time.monotonic()))
    return _status(watchers, sinks)


def _status(watchers: "Sequence[Watcher]", sinks: Sequence[Sink]) -> dict[str, Any]:
    return {
        "sources": {watcher.name: watcher.status() for watcher in watchers},
        "sinks": {sink.name: sink.counts() for sink in sinks},
    }


class Outlet:
    """Where the events of all sources go.

    Args:
      lines: events.jsonl; gets a line for each event that is over.
      sinks: get a message when an event begins, and one when it is over.
    """

    def __init__(self, lines: TextIO, sinks: Sequence[Sink]):
        self._lines, self._sinks, self._lock = lines, sinks, threading.Lock()

    def publish(self, state: str, event: dict[str, Any]) -> None:
        """Publishes an event that begins or ends."""
        with self._lock:
            if state == "end":
                self._lines.write(json.dumps(event) + "\n")
                self._lines.flush()
            for sink in self._sinks:
                sink.send({"state": state, **event})


class Watcher(threading.Thread):
    """Encodes and scores one source.

    Args:
      address: the source.
      detector: the detector.
      window: see ScoreStream.
      folder: for pictures.
      outlet: for events.
      lock: see Snippets.

    Attributes:
      fault: why the source couldn't be watched; None if it could.
    """

    def __init__(
        self,
        address: addresses.Address,
        detector: Detector,
        window: int | None,
        folder: pathlib.Path,
        outlet: Outlet,
        lock: threading.Lock,
    ):
        super().__init__(name=address.name, daemon=True)
        self.fault: str | None = None
        self._recipe, self._lock = detector.features.recipe, lock
        self._alarms = Alarms(address.name, detector, window, folder, outlet.publish)
        self._waiting, self._counts = Waiting(), Counts()
        self._stopping = threading.Event()
        self._receiver = Receiver(
            address, self._recipe, self._waiting, self._counts, self._report, self._stopping
        )
        self._begin = Begin(0.0, 1.0)
        self._snippets = Snippets(self._recipe, lock)
        self._complete: collections.deque[Snippet] = collections.deque()
        # Number of the next snippet since the last Begin; and of the first one, where snippets of
        # one connection were left out.
        self._number = self._first = 0
        self._lost_at: float | None = None
        self._told, self._told_at = 0, -math.inf  # Snippets left out that people know of.
        self._delays, self._model = _Delays(), detector.model
        self._drift = drift.Hours(detector.model)

    def stop(self) -> None:
        """Has the source end."""
        self._stopping.set()

    def status(self) -> dict[str, Any]:
        """Returns what has happened so far, as JSON."""
        alarms = self._alarms
        return {
            **dataclasses.asdict(self._counts),
            "seconds": round(alarms.seconds, 3),
            "snippets": alarms.snippets,
            "score": alarms.score,
            "events": alarms.events,
            **self._delays.status(),
            # Of the last whole hour, where its features left the range that the detector knows.
            "drift": drift.beyond(self._model, self._drift.shifts),
            "fault": self.fault,
        }

    def run(self) -> None:
        """See threading.Thread."""
        self._receiver.start()
        try:
            while not isinstance(message := self._waiting.get(0.5), End):
                if message is None and self._stopping.is_set():
                    break  # Without waiting for a source that is silent.
                self._take(message)
            else:
                self.fault = message.fault
        except Exception as error:  # A thread must not end silently, nor end the others.
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.fault = f"{kind}{error}"
            self.stop()
            self._waiting.close()
        try:
            self._alarms.finish()
        except OSError as error:
            self.fault = f"cannot write: {error.strerror}"
        except Exception as error:  # As above.
            self.fault = self.fault or f"{type(error).__name__}: {error}"
        self._tell_dropped()
        if self.fault:
            self.fault = self.fault.removeprefix(f"{self.name}: ")
            self._report(f"not watched any more: {self.fault}")

    def _take(self, message: Begin | Step | Gap | None) -> None:
        if isinstance(message, Step):
            self._step(message)
        elif isinstance(message, Begin):
            self._begin_anew(message)
        elif isinstance(message, Gap) and self._lost_at is None:
            self._lost_at = time.monotonic()
        elif self._lost_at and time.monotonic() - self._lost_at > self._alarms.cool_down:
            self._alarms.finish()

    def _begin_anew(self, begin: Begin) -> None:
        first = begin.left_out_to
        if first is not None:
            self._counts.dropped_snippets += max(0, first - self._first - self._number)
            if time.monotonic() - self._told_at >= _TOLD_SECONDS:
                self._tell_dropped()
        alarms = self._alarms
        if begin.reconnected and begin.seconds > alarms.seconds + alarms.cool_down:
            alarms.restart()
        self._begin, self._first, self._number, self._lost_at = begin, first or 0, 0, None
        self._snippets = Snippets(self._recipe, self._lock)
        self._complete.clear()

    def _tell_dropped(self) -> None:
        number = self._counts.dropped_snippets
        if number > self._told:
            self._report(
                f"encoding can't keep up: {number - self._told} snippets left out, {number} so far"
            )
        self._told, self._told_at = number, time.monotonic()

    def _step(self, step: Step) -> None:
        if step.look is not None:
            self._alarms.look(step.look)
        frames, stride = self._recipe.snippet_frames, self._recipe.snippet_stride
        whole = whole_snippets(step.ticks, frames, stride)
        self._complete += self._snippets.take(step.works, whole if step.last else None)
        spans = len(alignment.snippet_spans(step.ticks, frames, stride)) if step.last else whole
        # At high rates a snippet's rows may be known before it is over.
        while self._complete and self._number < spans:
            first = self._number * stride
            last = min(first + frames, step.ticks)
            rate, begin = self._begin.rate, self._begin.seconds
            snippet, arrived = self._complete.popleft(), wall_clock(step.arrived)
            self._alarms.push(snippet, begin + first / rate, begin + last / rate, arrived)
            self._delays.add(time.monotonic() - step.arrived)
            if said := self._drift.add(snippet.visual_NxD, begin + first / rate):
                self._report(said)
            self._number += 1

    def _report(self, line: str) -> None:
        tqdm.tqdm.write(f"{self.name}: {line}", file=sys.stderr)


class _Delays:
    """Seconds from a snippet's last frame to its score."""

    def __init__(self) -> None:
        self._total = self._most = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        """Takes that of one snippet."""
        self._total += seconds
        self._count += 1
        self._most = max(self._most, seconds)

    def status(self) -> dict[str, float | None]:
        """Returns their mean and the longest, since the start."""
        mean = round(self._total / self._count, 4) if self._count else None
        return {"mean_delay": mean, "longest_delay": round(self._most, 4) if self._count else None}
