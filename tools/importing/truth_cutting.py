"""Cuts ground truth of a whole test set into videos, by the convention that its length shows."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from gvvad_jax import conventions
from gvvad_jax.command import UserError
from gvvad_jax.store.alignment import REFERENCE_REPEAT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """What is known of a listed video's length.

    Attributes:
      id: the video.
      num_frames: its frames; None if not known.
      rows: its snippets, by the layout that its features may have, e.g. {"T,crops,D": 12}.
    """

    id: str
    num_frames: int | None = None
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)


def cut(
    labels_N: np.ndarray, lengths: Sequence[Length], path: str, listed: str
) -> tuple[dict[str, np.ndarray], str]:
    """Cuts concatenated frame labels into those of each video.

    Args:
      labels_N: labels of all test videos, one after the other, bool.
      lengths: the test videos in that order.
      path: the file of the labels, for messages.
      listed: the list, for messages.

    Returns:
      (labels [frames] by id; the convention of their lengths). Where frames are known, each video
      has as many labels: longer ones are cut, shorter ones repeat the last label.

    Raises:
      UserError: the labels fit no convention; the message says which length each would have.
    """
    expected = _totals(lengths)
    for convention, sizes in expected.items():
        if sum(sizes) == len(labels_N):
            ends = np.cumsum(sizes)[:-1]
            pieces = np.split(labels_N, ends)
            by_id = {
                video.id: piece if video.num_frames is None else fit(piece, video.num_frames)
                for video, piece in zip(lengths, pieces, strict=True)
            }
            return by_id, convention.partition(" ")[0]
    known = conventions.circulating(len(labels_N))
    if not expected:
        unknown = [video.id for video in lengths if video.num_frames is None and not video.rows]
        raise UserError(
            f"{path}: expected the length of each of the {len(lengths)} test videos of {listed} "
            f"to cut {len(labels_N)} labels by{known}, found none of {len(unknown)}, "
            f"{unknown[0] if unknown else ''!r} first; name the folder of their features "
            "(--features), or give a list with frames (path,num_frames or a videos.json)"
        )
    raise UserError(
        f"{path}: expected {_describe(expected)} for the {len(lengths)} test videos of {listed}, "
        f"found {len(labels_N)} labels{known}; {_advice(lengths, expected, len(labels_N))}"
    )


def fit(labels_F: np.ndarray, num_frames: int) -> np.ndarray:
    """Cuts a video's labels to its frames, or repeats the last one."""
    missing = max(0, num_frames - len(labels_F))
    return np.concatenate([labels_F[:num_frames], np.repeat(labels_F[-1:], missing)])


def fit_one(labels_F: np.ndarray, num_frames: int, where: str) -> tuple[np.ndarray, str]:
    """Fits the labels of one video to its frames; returns them and the convention they had.

    Raises:
      UserError: their length is none that a video of as many frames may have.
    """
    for convention in ("raw", "up", "down"):
        if len(labels_F) == conventions.rounded(num_frames, convention):
            return fit(labels_F, num_frames), convention
    why = conventions.explain(len(labels_F), num_frames, "label")
    raise UserError(
        f"{where}: expected {num_frames} labels as its list says, or those rounded to "
        f"{REFERENCE_REPEAT}, found {len(labels_F)}{': ' if why else ''}{why}; give the list that "
        "belongs to it"
    )


def _totals(lengths: Sequence[Length]) -> dict[str, list[int]]:
    """The labels of each video by each convention that its length is known for."""
    totals: dict[str, list[int]] = {}
    frames = [video.num_frames for video in lengths]
    if frames and None not in frames:
        for convention in ("raw", "up", "down"):
            totals[convention] = [conventions.rounded(n, convention) for n in frames if n]
    layouts = {layout for video in lengths for layout in video.rows}
    for layout in sorted(layouts):
        if all(layout in video.rows for video in lengths):
            totals[f"rows of {layout}"] = [REFERENCE_REPEAT * v.rows[layout] for v in lengths]
    return totals


def _describe(expected: Mapping[str, Sequence[int]]) -> str:
    parts = []
    for convention, sizes in expected.items():
        name, _, layout = convention.partition(" ")
        parts.append(f"{sum(sizes)} ({conventions.NAMES[name]}{', ' + layout if layout else ''})")
    return " or ".join(parts)


def _advice(lengths: Sequence[Length], expected: Mapping[str, Sequence[int]], found: int) -> str:
    for sizes in expected.values():
        if sum(sizes) - found in sizes:
            without = lengths[sizes.index(sum(sizes) - found)].id
            return f"it fits without {without!r}: give the list that it was made by (--list)"
    return "give the list that it was made by (--list), in its order, and all its test videos"
