"""Interfaces of visual encoders, captioners and text encoders."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gvvad_jax.store.format import STAND_IN

if TYPE_CHECKING:
    import torch


class VisualEncoder(Protocol):
    """Turns frames into features.

    An encoder with `whole_video` has `encode_video`; one without it has the other methods and
    works on a few frames of each snippet.

    Attributes:
      id: identifies the encoder and its weights.
      dim: width of the features.
      manifest: the encoder's entry in a store's manifest: {id, weights, pooling, normalised,
        standardise}.
      crops: the manifest's entry of the crops: {count, order}.
      whole_video: whether the encoder needs all frames of a video at once.
    """

    id: str
    dim: int
    manifest: Mapping[str, Any]
    crops: Mapping[str, Any]
    whole_video: bool

    def encode_video(
        self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float
    ) -> np.ndarray:
        """Returns float32 [T, crops, dim]."""
        ...

    def frames_of(self, start: int, end: int) -> Sequence[int]:
        """Returns which frames of the snippet [start, end) are needed, ascending."""
        ...

    def prepare(self, frame_HxWx3: np.ndarray) -> "torch.Tensor":
        """Reduces a frame to what `encode_snippets` needs; called where frames are decoded."""
        ...

    def prepare_whole(self, frame_HxWx3: np.ndarray) -> "torch.Tensor":
        """Reduces a frame to what `consistency` needs; called where frames are decoded."""
        ...

    def encode_snippets(self, snippets: "Sequence[Sequence[torch.Tensor]]") -> np.ndarray:
        """Returns float32 [len(snippets), crops, dim] for each snippet's prepared frames."""
        ...

    def consistency(self, frames: "Sequence[torch.Tensor]") -> float:
        """Returns how consistent a video is over time, from frames of `prepare_whole`."""
        ...


class Captioner(Protocol):
    """Describes each snippet in one sentence, from pixels and their frame rate alone.

    A captioner with `whole_video` has `captions`; one without it has the other methods.

    Attributes:
      id: identifies the captioner and everything that changes its words; stores keep it.
      whole_video: whether the captioner needs all frames of a video at once.
      vocabulary: which vocabulary of the prompt banks fits its words, see bank_phrases.py.
    """

    id: str
    whole_video: bool
    vocabulary: str

    def captions(self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float) -> list[str]:
        """Returns T sentences, one per snippet [start, end)."""
        ...

    def frames_of(self, start: int, end: int) -> Sequence[int]:
        """Returns which frames of the snippet [start, end) are needed, ascending."""
        ...

    def caption_snippets(self, snippets: Sequence[np.ndarray]) -> list[str]:
        """Returns one sentence per snippet, from its frames RGB uint8 [K, H, W, 3]."""
        ...


class StandIn:
    """Stands in for a captioner where the text is the phrase that a video was generated from."""

    id = STAND_IN
    whole_video = False
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
