"""What makes clips of descriptions, and what comes of it."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from generation.prompts.descriptions import Description


@dataclasses.dataclass(frozen=True)
class GeneratedVideo:
    """What a backend makes of a description.

    Attributes:
      frames_TxHxWx3: RGB uint8.
      fps: frames per second.
      crf: x264 quality to write it with.
      abnormal_frames: [start, end) in frames where they are known exactly, else None.
      truth: what only checks may know, e.g. planted defects; {} where there is none.
      facts: how it was made, for its record.
    """

    frames_TxHxWx3: np.ndarray
    fps: float
    crf: int = 20
    abnormal_frames: list[tuple[int, int]] | None = None
    truth: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Backend(Protocol):
    """Makes clips. It can be sent to other processes, so what is large is loaded by `prepare`.

    Attributes:
      settings: everything, beside the description, that a clip depends on; needs no weights.
      batch_size: how many clips it likes to make at once.
    """

    settings: Mapping[str, Any]
    batch_size: int

    def prepare(
        self,
        descriptions: Sequence[Description],
        folder: pathlib.Path,
        begun: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Comes before the first clip.

        Args:
          descriptions: what clips will be asked of.
          folder: for files that are needed until all clips are there; all ranks share it.
          begun: what this returned when the first of the clips were made.

        Returns:
          What tells the loaded weights from any others; empty where there are none.

        Raises:
          UserError: the clips were begun with other weights.
        """

    def __call__(self, descriptions: Sequence[Description]) -> list[GeneratedVideo | Exception]:
        """One entry a description: its clip, or why there is none."""
