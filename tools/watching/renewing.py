"""Encodes a video without an end, with the encoders that are made for whole videos.

An encoder must know a video's snippets and length beforehand. So an endless one is cut into
stretches of some snippets, each encoded by a stream of its own. A stretch begins with the frames
before its first snippet that its motion is measured from; its rows then equal those of the whole
video. Two stretches overlap in time, so none waits for another.
"""

import collections
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from generation.encode.recipe import Recipe
from generation.encoders.motion import MotionEncoder, MotionStream
from generation.encoders.motion_captions import CaptionStream, MotionCaptioner
from generation.encoders.protocols import Captioner, Stream, VisualEncoder
from generation.media.reading import Picture
from gvvad_jax.store import alignment
from tools.watching.ticks import whole_snippets

# Snippets of a stretch: the frames before it are measured twice, which is little of so many.
_STRETCH = 64
# Captions of rules compare a stretch with its own background, and wait for its end: seconds of it.
_CAPTION_SECONDS = 4.0
# Working frames before a snippet that its motion is measured from: two for the change of the flow
# in its first frame, and one where no working frame lies inside the snippet.
_HISTORY = 3


class Work(NamedTuple):
    """Something for an encoder to take.

    Attributes:
      stream: which one takes it.
      prepared: a prepared frame.
      is_caption: whether the stream gives captions, and not features.
    """

    stream: Stream
    prepared: Any
    is_caption: bool


class Snippet(NamedTuple):
    """The rows of a snippet.

    Attributes:
      visual_NxD: features of each crop, of the type that the run's store has.
      text_E: features of the caption; None without text.
      caption: the caption; None without text.
    """

    visual_NxD: np.ndarray
    text_E: np.ndarray | None
    caption: str | None


@dataclasses.dataclass
class _Stretch:
    """Some snippets' stream.

    Attributes:
      first: number of its first snippet.
      stream: it.
      wanted: the ticks that it needs next, ascending.
    """

    first: int
    stream: Stream
    wanted: "collections.deque[int]"


class _Relay:
    """One encoder or captioner, stretch after stretch."""

    def __init__(self, model: Any, frames: int, stride: int, rate: float, is_caption: bool):
        self._model, self._frames, self._stride, self._rate = model, frames, stride, rate
        self._is_caption = is_caption
        # Working frames lie on a grid that stretches must share.
        self._step = max(1, round(rate / MotionEncoder.working_fps))
        # No more than two stretches at a time.
        least = -(-(frames + (_HISTORY + 1) * self._step) // stride)
        self._at_once = max(_STRETCH, least)
        # Whether nothing is known of a stretch before its end.
        self._waits = isinstance(model, MotionCaptioner)
        if self._waits:
            self._at_once = max(least, round(_CAPTION_SECONDS * rate / stride))
        self._begun = 0  # Snippets whose stretches have begun.
        self._stretches: collections.deque[_Stretch] = collections.deque()
        # What the last snippet, which the end cuts short, may need.
        self._recent: collections.deque[tuple[int, Any]] = collections.deque()
        self._kept = frames + stride + (_HISTORY + 1) * self._step
        self._kept += 2 * self._at_once * stride if self._waits else 0

    def take(self, tick: int, picture: Picture) -> list[Work]:
        """Takes the frame of the next tick; returns what it is to streams, prepared."""
        while self._base(self._begun) <= tick:
            starts_T = np.arange(self._begun, self._begun + self._at_once) * self._stride
            spans_Tx2 = np.stack([starts_T, starts_T + self._frames], axis=1)
            self._begin(spans_Tx2, self._begun, int(spans_Tx2[-1, 1]))
            self._begun += self._at_once
        work, prepared = [], None
        for stretch in self._stretches:
            if stretch.wanted and stretch.wanted[0] == tick:
                stretch.wanted.popleft()
                if prepared is None:
                    prepared = stretch.stream.prepare(picture)
                    self._recent.append((tick, prepared))
                work.append(Work(stretch.stream, prepared, self._is_caption))
        while self._stretches and not self._stretches[0].wanted:
            self._stretches.popleft()
        while self._recent and self._recent[0][0] < tick - self._kept:
            self._recent.popleft()
        return work

    def finish(self, ticks: int, last: Picture) -> list[Work]:
        """Returns what the last snippet needs that the end of the video cuts short, if any.

        Nothing is returned, too, if frames would be needed that nobody wanted before.
        """
        first = whole_snippets(ticks, self._frames, self._stride)
        if self._waits:
            first = min([first, *(stretch.first for stretch in self._stretches)])
        elif isinstance(self._model, MotionEncoder) and ticks <= self._step:
            first = 0  # It waits for a second working frame, which doesn't come.
        spans_Tx2 = alignment.snippet_spans(ticks, self._frames, self._stride)[first:]
        if not len(spans_Tx2):
            return []
        stretch = self._begin(spans_Tx2, first, ticks)
        recent = dict(self._recent)
        if ticks - 1 in stretch.wanted and ticks - 1 not in recent:
            recent[ticks - 1] = stretch.stream.prepare(last)
        if not set(stretch.wanted) <= recent.keys():
            return []
        return [Work(stretch.stream, recent[tick], self._is_caption) for tick in stretch.wanted]

    def _base(self, snippet: int) -> int:
        """Returns the first tick of a stretch that begins with a snippet."""
        before = snippet * self._stride - _HISTORY * self._step
        return max(0, before // self._step * self._step)

    def _begin(self, spans_Tx2: np.ndarray, first: int, end: int) -> _Stretch:
        base = self._base(first)
        stream = self._model.begin(spans_Tx2 - base, end - base, self._rate)
        stretch = _Stretch(first, stream, collections.deque((stream.wanted_F + base).tolist()))
        self._stretches.append(stretch)
        return stretch


class Frames:
    """The side of the thread that decodes: frames in, prepared frames out.

    Args:
      recipe: the encoder, the captioner and the sizes of snippets.
      rate: ticks per second.
    """

    def __init__(self, recipe: Recipe, rate: float):
        frames, stride = recipe.snippet_frames, recipe.snippet_stride
        models: list[VisualEncoder | Captioner | None] = [recipe.encoder, recipe.pixel_captioner]
        self._relays = [
            _Relay(model, frames, stride, rate, bool(number))
            for number, model in enumerate(models)
            if model is not None
        ]

    def take(self, tick: int, picture: Picture) -> list[Work]:
        """Takes the frame of the next tick, from 0; returns what it is to the encoders."""
        return [work for relay in self._relays for work in relay.take(tick, picture)]

    def finish(self, ticks: int, last: Picture) -> list[Work]:
        """Returns what is needed for the last snippets, of which one is shorter than the others.

        Args:
          ticks: ticks of the whole video.
          last: its last frame.
        """
        return [work for relay in self._relays for work in relay.finish(ticks, last)]


class Snippets:
    """The side of the thread that encodes: prepared frames in, snippets out, in order.

    Args:
      recipe: see Frames.
      lock: held while models work, which aren't made for several threads.
    """

    def __init__(self, recipe: Recipe, lock: threading.Lock):
        self._recipe, self._lock = recipe, lock
        self._visual: collections.deque[np.ndarray] = collections.deque()
        self._captions: collections.deque[str] = collections.deque()
        self._given = {False: 0, True: 0}  # Rows and captions so far.

    def take(self, works: list[Work], last: int | None = None) -> list[Snippet]:
        """Takes work; returns the snippets that it completes.

        Args:
          works: what to do.
          last: the number of the snippet that is cut short by the end, with the last work. At high
            frame rates it may be complete already, since no working frame comes after the end.
        """
        for work in works:
            results = self._results(work)
            if last is not None:
                results = results[max(0, self._given[work.is_caption] - last) :]
            self._given[work.is_caption] += len(results)
            if work.is_caption:
                self._captions += results
            else:
                dtype = self._recipe.dtype
                self._visual += [row_NxD.astype(dtype, copy=False) for row_NxD in results]
        if self._recipe.pixel_captioner is None:
            complete = [Snippet(row_NxD, None, None) for row_NxD in self._visual]
            self._visual.clear()
            return complete
        count = min(len(self._visual), len(self._captions))
        return [self._captioned() for _ in range(count)]

    def _results(self, work: Work) -> Sequence[Any]:
        # Motion alone has no model, and may be measured for several cameras at a time.
        if isinstance(work.stream, MotionStream | CaptionStream):
            return work.stream.take([work.prepared])
        with self._lock:
            return work.stream.take([work.prepared])

    def _captioned(self) -> Snippet:
        caption = self._captions.popleft()
        with self._lock:
            text_1xE = self._recipe.text_encoder([caption])
        return Snippet(self._visual.popleft(), text_1xE[0].astype(self._recipe.dtype), caption)
