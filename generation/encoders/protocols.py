"""Interfaces of visual encoders, captioners and text encoders."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from gvvad_jax.store.format import STAND_IN

if TYPE_CHECKING:
    import torch

    from generation.media.reading import Picture


class Stream(Protocol):
    """An encoder's or captioner's work on one video: frames go in one by one, snippets come out.

    Each video has a stream of its own, so that no video depends on those before it. A stream keeps
    no more than its snippets need at a time, however long the video is.

    Attributes:
      wanted_F: the frames that it needs, int64, ascending.
    """

    wanted_F: np.ndarray

    def prepare(self, picture: "Picture") -> Any:
        """Reduces a frame to what `take` needs; called in the thread that decodes.

        Returns:
          An array or tensor with `nbytes`. The stream doesn't change.
        """
        ...

    def take(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """Takes the next of the wanted frames.

        Args:
          prepared: results of `prepare`, one for each of the next frames in `wanted_F`.

        Returns:
          What each snippet that is now complete became, in order: float32 [crops, dim] of an
          encoder, a sentence of a captioner. After all wanted frames, every snippet is complete.
        """
        ...


class VisualEncoder(Protocol):
    """Turns frames into features.

    Attributes:
      id: identifies the encoder and its weights.
      dim: width of the features.
      manifest: the encoder's entry in a store's manifest: {id, weights, pooling, normalised,
        standardise}.
      crops: the manifest's entry of the crops: {count, order}.
    """

    id: str
    dim: int
    manifest: Mapping[str, Any]
    crops: Mapping[str, Any]

    def begin(self, spans_Tx2: np.ndarray, num_frames: int, rate: float) -> Stream:
        """Begins a video.

        Args:
          spans_Tx2: [start, end) of each snippet in frames, both rising.
          num_frames: frames of the video, at least 1.
          rate: frames per second.
        """
        ...


@runtime_checkable
class FrameEncoder(VisualEncoder, Protocol):
    """An encoder that embeds single frames, so that it can tell how alike they are."""

    def prepare_whole(self, picture: "Picture") -> "torch.Tensor":
        """Reduces a frame to what `consistency` needs; called where frames are decoded."""
        ...

    def consistency(self, frames: "Sequence[torch.Tensor]") -> float:
        """Returns how consistent a video is over time, from frames of `prepare_whole`."""
        ...


class Captioner(Protocol):
    """Describes each snippet in one sentence, from pixels and their frame rate alone.

    Attributes:
      id: identifies the captioner and everything that changes its words; stores keep it.
      vocabulary: which vocabulary of the prompt banks fits its words, see bank_phrases.py.
    """

    id: str
    vocabulary: str

    def begin(self, spans_Tx2: np.ndarray, num_frames: int, rate: float) -> Stream:
        """Begins a video; see VisualEncoder.begin."""
        ...


class SnippetStream:
    """The stream of a model that looks at some frames of each snippet by itself.

    Args:
      spans_Tx2: [start, end) of each snippet in frames, both rising.
      frames_of: which frames of a snippet [start, end) are needed, ascending.
      prepare: reduces a frame.
      finish: what snippets become, from the prepared frames of each.

    Attributes:
      wanted_F: see Stream.
    """

    def __init__(
        self,
        spans_Tx2: np.ndarray,
        frames_of: Callable[[int, int], Sequence[int]],
        prepare: "Callable[[Picture], Any]",
        finish: Callable[[list[list[Any]]], Sequence[Any]],
    ):
        self._spans_Tx2, self._frames_of, self._finish = spans_Tx2, frames_of, finish
        self.prepare = prepare
        chosen = (np.asarray(frames_of(int(s), int(e)), np.int64) for s, e in spans_Tx2)
        self.wanted_F = _distinct(chosen)
        self._taken = self._given = 0
        self._kept: dict[int, Any] = {}

    def take(self, prepared: Sequence[Any]) -> list[Any]:
        """Takes the next of the wanted frames; see Stream.take."""
        for frame in prepared:
            self._kept[int(self.wanted_F[self._taken])] = frame
            self._taken += 1
        snippets = []
        while self._given < len(self._spans_Tx2):
            needed = self._needed(self._given)
            if not all(index in self._kept for index in needed):
                break
            snippets.append([self._kept[index] for index in needed])
            self._given += 1
        if self._given < len(self._spans_Tx2):
            first = min(self._needed(self._given))
            self._kept = {index: kept for index, kept in self._kept.items() if index >= first}
        else:
            self._kept.clear()
        return list(self._finish(snippets)) if snippets else []

    def _needed(self, snippet: int) -> Sequence[int]:
        start, end = self._spans_Tx2[snippet]
        return self._frames_of(int(start), int(end))


def _distinct(chosen: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the distinct values of arrays, ascending, a thousand arrays at a time."""
    parts = [np.zeros(0, np.int64)]
    while batch := list(itertools.islice(chosen, 1000)):
        parts.append(np.unique(np.concatenate(batch)))
    return np.unique(np.concatenate(parts))


class StandIn:
    """Stands in for a captioner where the text is the phrase that a video was generated from."""

    id = STAND_IN
    vocabulary = "plain"


class TextEncoder(Protocol):
    """Turns sentences into vectors.

    Attributes:
      id: identifies the encoder and its weights; vectors of different ids are not comparable.
      dim: length of the vectors.
      normalised: whether the vectors have length 1.
    """

    id: str
    dim: int
    normalised: bool

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 [len(texts), dim]."""
        ...
