"""Scores of one live source as they come, its events, and the messages and pictures of these."""

import collections
import datetime
import itertools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gvvad_jax import events
from gvvad_jax.events import Event
from gvvad_jax.store.files import write_atomically
from gvvad_jax.streaming import ScoreStream
from tools.watching import cells, thumbnails
from tools.watching.detector import Detector
from tools.watching.renewing import Snippet
from tools.watching.waiting import Look

# Seconds between pictures of quiet footage, and how many of them an event is compared with.
_QUIET_SECONDS, _QUIET = 5.0, 24
# Pairs of pictures in the snippet of the peak that are compared with those.
_PAIRS = 3
# Seconds of pictures that are kept beyond a snippet's length, because captions take their time.
_KEPT_SECONDS, _KEPT_WITH_TEXT = 1.0, 10.0

Publish = Callable[[str, dict[str, Any]], None]


class Alarms:
    """Takes the snippets of one source in order, and publishes its events.

    Args:
      name: the source's name.
      detector: scores snippets and says what an event is.
      window: snippets that a score looks at; see ScoreStream.
      folder: where pictures go, below NAME.files.
      publish: called with "begin" or "end" and an event as JSON; begin comes once the event has the
        minimum length, and each begin has its end.

    Attributes:
      snippets, events: how many there were.
      score: the newest.
      seconds: where the newest snippet ended.
    """

    def __init__(
        self,
        name: str,
        detector: Detector,
        window: int | None,
        folder: pathlib.Path,
        publish: Publish,
    ):
        self.snippets = self.events = 0
        self.score: float | None = None
        self.seconds = 0.0
        self._name, self._detector, self._folder, self._publish = name, detector, folder, publish
        self._scores = ScoreStream(detector.model, window)
        self._events = events.EventStream(detector.rule, name)
        self._album = _Album(detector)
        self._open: _Open | None = None
        self._compile()

    def _compile(self) -> None:
        """Scores nothing, because the first score takes seconds in which a queue would fill."""
        manifest = self._detector.features.manifest
        visual_NxD = np.zeros((int(manifest.crops["count"]), manifest.dim), np.float32)
        text_E = np.zeros(manifest.text["dim"], np.float32) if manifest.text else None
        self._scores.push(visual_NxD, text_E)
        self._scores.reset()

    @property
    def cool_down(self) -> float:
        """Seconds without a snippet after which an event is over."""
        return self._detector.rule.cool_down

    def look(self, look: Look) -> None:
        """Takes a picture for thumbnails; those of a snippet come before it."""
        self._album.add(look)

    def restart(self) -> None:
        """Forgets what was seen before: the source was away, and may show something else."""
        self._scores.reset()
        self._album.clear()

    def push(self, snippet: Snippet, start: float, end: float, arrived: float) -> None:
        """Takes the next snippet.

        Args:
          snippet: its rows.
          start, end: its time in seconds of the source.
          arrived: time.time() when its last frame had arrived.
        """
        # A source's clock may be set back by rounding where snippets begin anew.
        end = max(end, self.seconds)
        self.score = score = self._scores.push(snippet.visual_NxD, snippet.text_E)
        complete = self._events.push(score, start, end)
        self.seconds = end
        self.snippets += 1
        if complete:
            self._end(complete)
        begun = self._events.open_since
        if begun is None:
            self._open = None
            self._album.quiet(start, end)
            self._album.forget(start)
            return
        if self._open is None or self._open.start != begun:
            self._open = _Open(begun, arrived - (end - start))
        if score > self._open.peak:
            self._open.peak = score
            self._open.cls = self._class(snippet)
            self._open.caption = snippet.caption
            self._album.choose(start, end)
        self._album.forget(start)
        going = self._events.open
        if going and not self._open.announced:
            self._open.announced = True
            self._announce("begin", going)

    def finish(self) -> None:
        """Ends what goes on, because the source ends or is away for longer than the cool-down."""
        complete = self._events.finish()
        if complete:
            self._end(complete)
        self._open = None

    def _end(self, event: Event) -> None:
        self.events += 1
        self._announce("end", event)
        self._open = None

    def _class(self, snippet: Snippet) -> str | None:
        classes = self._detector.classes
        if classes is None or snippet.text_E is None:
            return None
        return classes.nearest(snippet.text_E[None])[0]

    def _announce(self, state: str, event: Event) -> None:
        """Draws the event's picture as it is so far, and publishes the event."""
        known = self._open
        assert known is not None
        begun = datetime.datetime.fromtimestamp(known.wall, datetime.UTC)
        thumbnail = self._draw(begun)
        content = event.to_json() | {"class": known.cls, "thumbnail": thumbnail}
        over = begun + datetime.timedelta(seconds=event.end - event.start)
        content |= {
            "start_time": begun.isoformat(timespec="milliseconds"),
            "end_time": over.isoformat(timespec="milliseconds"),
        }
        if known.caption is not None:
            content["caption"] = known.caption
        self._publish(state, content)

    def _draw(self, begun: datetime.datetime) -> str | None:
        jpeg = self._album.thumbnail()
        if jpeg is None:
            return None
        folder = self._folder / f"{self._name}.files"
        folder.mkdir(exist_ok=True)
        path = folder / f"event-{begun:%Y%m%dT%H%M%S}.{begun.microsecond // 1000:03d}Z.jpg"
        write_atomically(path, jpeg)
        return f"{folder.name}/{path.name}"


class _Open:
    """What is known of an event beside its scores."""

    def __init__(self, start: float, wall: float):
        self.start, self.wall = start, wall
        self.peak = -np.inf
        self.cls: str | None = None
        self.caption: str | None = None
        self.announced = False


class _Album:
    """Pictures of the last seconds, of quiet footage what moved in it, and of the peak both."""

    def __init__(self, detector: Detector):
        recipe = detector.features.recipe
        self._meter = cells.meter_for(recipe.encoder)
        self._kept = _KEPT_SECONDS if recipe.pixel_captioner is None else _KEPT_WITH_TEXT
        self._looks: collections.deque[Look] = collections.deque()
        self._usual: collections.deque[np.ndarray] = collections.deque(maxlen=_QUIET)
        self._quiet_at = -np.inf
        self._chosen: tuple[np.ndarray, list[np.ndarray]] | None = None

    def add(self, look: Look) -> None:
        """Takes the next picture."""
        self._looks.append(look)

    def clear(self) -> None:
        """Forgets the pictures, and what is usual."""
        self._looks.clear()
        self._usual.clear()
        self._quiet_at = -np.inf

    def quiet(self, start: float, end: float) -> None:
        """Measures what moves in a snippet that isn't an event, now and then."""
        if end - self._quiet_at >= _QUIET_SECONDS:
            self._quiet_at = end
            self._usual += self._moved(start, end)[:1]

    def choose(self, start: float, end: float) -> None:
        """Takes the pictures of a snippet for those of the event."""
        coloured = [look for look in self._looks if look.rgb_HxWx3 is not None]
        if coloured:
            middle = (start + end) / 2
            nearest = min(coloured, key=lambda look: abs(look.seconds - middle))
            assert nearest.rgb_HxWx3 is not None
            self._chosen = nearest.rgb_HxWx3, self._moved(start, end)

    def thumbnail(self) -> bytes | None:
        """Returns the picture of the event as a JPEG file."""
        if self._chosen is None:
            return None
        image_HxWx3, moved = self._chosen
        marked = []
        if moved and self._usual:
            deviations_RxC = cells.deviations(np.stack(moved), np.stack(self._usual))
            marked = cells.marked(deviations_RxC)
        return thumbnails.jpeg(cells.draw(image_HxWx3, marked, self._meter.grid))

    def _moved(self, start: float, end: float) -> list[np.ndarray]:
        inside = [look for look in self._looks if start <= look.seconds < end]
        pairs = [
            (before, after)
            for before, after in itertools.pairwise(inside)
            if before.seconds < after.seconds < before.seconds + 4 * cells.PAIR_SECONDS
        ]
        return [
            self._meter.measure(before.small_HxW, after.small_HxW, after.seconds - before.seconds)
            for before, after in pairs[:_PAIRS]
        ]

    def forget(self, start: float) -> None:
        """Forgets pictures from long before a snippet that starts so."""
        while self._looks and self._looks[0].seconds < start - self._kept:
            self._looks.popleft()


def wall_clock(monotonic: float) -> float:
    """Returns time.time() of a moment of time.monotonic()."""
    return time.time() - (time.monotonic() - monotonic)
