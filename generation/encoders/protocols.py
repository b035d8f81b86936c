"""What visual encoders, captioners and text encoders have in common."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from gvvad_jax.store.format import STAND_IN


class VisualEncoder(Protocol):
    """Frames to features; see generation/encoders.py.

    With `whole_video` it has `encode_video`; without, the other methods.
    """

    id: str
    dim: int
    manifest: Mapping[str, Any]  # {id, weights, pooling, normalised, standardise}
    crops: Mapping[str, Any]  # {count, order}
    whole_video: bool

    def encode_video(
        self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float
    ) -> np.ndarray:
        """float32 [T, crops, dim]."""
        ...

    def frames_of(self, start: int, end: int) -> Sequence[int]:
        """Which frames of the snippet [start, end) it looks at, rising."""
        ...

    def prepare(self, frame_HxWx3: np.ndarray) -> Any:
        """What it needs of such a frame; called where frames are decoded."""
        ...

    def prepare_whole(self, frame_HxWx3: np.ndarray) -> Any:
        """What `consistency` needs of a frame; called where frames are decoded."""
        ...

    def encode_snippets(self, snippets: Sequence[Sequence[Any]]) -> np.ndarray:
        """float32 [len(snippets), crops, dim] of each snippet's prepared frames."""
        ...

    def consistency(self, frames: Sequence[Any]) -> float:
        """How much a video stays the same thing, of `prepare_whole`d frames."""
        ...


class Captioner(Protocol):
    """Pixels to one sentence a snippet; nothing but pixels and their rate goes in.

    With `whole_video` it has `captions`; without, the other methods. See generation/captions.py.
    """

    id: str
    whole_video: bool
    vocabulary: str  # that the prompt bank is to have

    def captions(
        self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float
    ) -> list[str]: ...

    def frames_of(self, start: int, end: int) -> Sequence[int]: ...

    def caption_snippets(self, snippets: Sequence[np.ndarray]) -> list[str]: ...


class StandIn:
    """Stands for a captioner where the text is the phrase that a video was generated from."""

    id = STAND_IN
    whole_video = False
    vocabulary = "plain"


class TextEmbedder(Protocol):
    """Sentences to vectors."""

    id: str
    dim: int
    normalised: bool

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), dim]."""
        ...
