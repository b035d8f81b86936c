"""The interface of a backend, which generates videos from descriptions."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from generation.prompts.descriptions import Description


@dataclasses.dataclass(frozen=True)
class GeneratedVideo:
    """A generated video and what is known about it.

    Attributes:
      frames_TxHxWx3: RGB uint8.
      fps: frames per second.
      crf: x264's constant rate factor for its file; lower is better.
      abnormal_frames: [start, end) in frames if they are known exactly, else None.
      truth: what only checks may use, e.g. planted defects.
      facts: how it was generated, for its record.
    """

    frames_TxHxWx3: np.ndarray
    fps: float
    crf: int = 20
    abnormal_frames: list[tuple[int, int]] | None = None
    truth: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Backend(Protocol):
    """Generates videos. It is sent to other processes, so `prepare` loads what is large.

    Attributes:
      settings: everything beside the description that a video depends on; it needs no weights.
      batch_size: number of videos to generate at once.
    """

    settings: Mapping[str, Any]
    batch_size: int

    def examine(
        self,
        descriptions: Sequence[Description],
        recorded: Mapping[str, Any] | None,
        is_complete: bool,
    ) -> None:
        """Checks what can be known before any video is generated, without loading weights.

        Args:
          descriptions: all descriptions of the set.
          recorded: what `prepare` returned when the first video of the set was generated.
          is_complete: whether all videos are there.

        Raises:
          UserError: the set was begun with other weights, or the prompts don't suit the model.
        """

    def prepare(
        self,
        descriptions: Sequence[Description],
        folder: pathlib.Path,
        recorded: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Prepares for videos; called before the first one.

        Args:
          descriptions: the videos that will be asked for.
          folder: folder for files that are needed until the set is complete; ranks share it.
          recorded: what `prepare` returned when the first video of the set was generated.

        Returns:
          What distinguishes the loaded weights from any others; empty if there are none.

        Raises:
          UserError: the set was begun with other weights.
        """

    def __call__(self, descriptions: Sequence[Description]) -> list[GeneratedVideo | Exception]:
        """Returns a video, or the error in its place, for each description."""
