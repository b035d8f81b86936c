"""What all readers of ground truth return: one video's labels in time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError

Intervals = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruthEntry:
    """One video of a ground truth; what the file doesn't say is None.

    Attributes:
      name: the video's name in the file; "" if only its place says which video it is.
      intervals: [start, end) pairs of abnormal frames, counted from 0.
      num_frames: frames of the video, or labels that the file has of it.
      fps: frames per second.
      label: 1 abnormal, 0 normal.
      cls: class of an abnormal video.
      split: train, validation or test.
      file: path of the video, relative to the list that is written.
    """

    name: str
    intervals: Intervals | None = None
    num_frames: int | None = None
    fps: float | None = None
    label: int | None = None
    cls: str | None = None
    split: str | None = None
    file: str | None = None


def find_intervals(labels_F: np.ndarray) -> Intervals:
    """Finds the [start, end) pairs of frames with label 1."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels_F != 0, [0]]).astype(np.int8)))
    return tuple((int(start), int(end)) for start, end in edges.reshape(-1, 2))


def merge(intervals: Sequence[tuple[int, int]]) -> Intervals:
    """Sorts intervals, and joins those that overlap or touch."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def require_labels(labels: Any, where: str) -> np.ndarray:
    """Returns frame labels as bool [frames]; a label for each pixel becomes one for its frame.

    Args:
      labels: 0 and 1 (or 255, as masks have it) as [frames], [frames, 1] or [frames, H, W].
      where: the file, and the video if it has several, for the message.

    Raises:
      UserError: there is no frame, or there are other values.
    """
    array = np.asarray(labels)
    values = np.unique(array[..., :1] if array.ndim == 3 else array) if array.size else array
    known = array.dtype.kind in "biuf" and array.size and array.ndim in (1, 2, 3)
    if known and array.ndim == 2 and 1 not in array.shape:
        known = False
    if not known or (array.ndim < 3 and not set(values.tolist()) <= {0, 1, 255}):
        raise UserError(
            f"{where}: expected labels 0 and 1 for each frame, found {array.dtype} of shape "
            f"{list(array.shape)}{_first(values)}; give the frame-level ground truth"
        )
    return array.reshape(len(array), -1).any(1) if array.ndim == 3 else array.ravel() != 0


def _first(values: np.ndarray) -> str:
    shown = values.ravel()[:4].tolist() if values.size and values.dtype.kind in "biuf" else []
    return f" with {shown}" if shown else ""
