"""Scores of one video, from its file, in constant memory."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gvvad_jax import drift
from tools.watching.detector import Detector
from tools.watching.features import Ending, Facts, Piece, RunFeatures

if TYPE_CHECKING:
    from generation.encode.reporting import DecodingBar
    from gvvad_jax.scoring import Model
    from tools.watching.sources import VideoFile

# A video of more rows (crops x snippets) than this is scored in parts, so that memory is bounded.
PART_ROWS = 16384
# Even with many crops a part has this many snippets.
PART_SNIPPETS = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What a detector says of a video.

    Attributes:
      facts: the video's length and the times of its snippets.
      scores_T: float32, a score a snippet.
      classes: a class a snippet; None for a detector without text.
      captions: a sentence a snippet; empty without text.
      part_snippets: snippets of the parts that it was scored in; None for a whole video.
      ending: what is wrong with the file.
      shift: how far its features lie from those that the detector knows; see drift.
    """

    facts: Facts
    scores_T: np.ndarray
    classes: list[str] | None
    captions: list[str]
    part_snippets: int | None
    ending: Ending
    shift: float | None = None


def part_snippets(crops: int) -> int:
    """Returns how many snippets are scored together at most."""
    return max(PART_SNIPPETS, PART_ROWS // crops)


def score_file(detector: Detector, video: "VideoFile", bar: "DecodingBar | None" = None) -> Scores:
    """Encodes and scores a video.

    A long one is scored in parts that overlap by an eighth at both ends, of which each snippet
    takes its score from the part in whose middle it lies.

    Args:
      detector: the detector.
      video: the video.
      bar: shows the share of it that is decoded.

    Raises:
      UnreadableVideo: nothing of it can be encoded.
    """
    fps = video.annotation.fps if video.annotation else None
    messages = detector.features.pieces(video.path, fps, bar)
    reading = None
    for message in messages:
        if isinstance(message, Facts):
            # A damaged video is read again; the last reading counts.
            reading = _Reading(detector, message)
        elif isinstance(message, Piece):
            assert reading is not None
            reading.add(message)
        else:
            assert reading is not None
            return reading.finish(message)
    raise AssertionError("a video without an ending")


class _Reading:
    """What is known of a video while it is read."""

    def __init__(self, detector: Detector, facts: Facts):
        self._facts, self._classes = facts, detector.classes
        self._parts = _Parts(detector.model, detector.features)
        self._captions: list[str] = []
        self._named: list[str] = []
        self._drift = drift.Meter(detector.model)

    def add(self, piece: Piece) -> None:
        """Takes the next snippets."""
        self._parts.add(piece)
        self._drift.add(piece.visual_TxNxD)
        self._captions += piece.captions
        if self._classes is not None and piece.text_TxE is not None:
            self._named += self._classes.nearest(piece.text_TxE)

    def finish(self, ending: Ending) -> Scores:
        """Returns the scores of the whole."""
        scores_T = self._parts.finish()
        return Scores(
            facts=self._facts,
            scores_T=scores_T,
            classes=self._named if self._classes else None,
            captions=self._captions,
            part_snippets=None if len(scores_T) <= self._parts.most else self._parts.most,
            ending=ending,
            shift=self._drift.shift(),
        )


class _Parts:
    """Scores snippets that arrive in pieces, a part at a time."""

    def __init__(self, model: "Model", features: RunFeatures):
        self._model = model
        self.most = part_snippets(int(features.manifest.crops["count"]))
        self._overlap = self.most // 8
        self._visual: list[np.ndarray] = []
        self._text: list[np.ndarray] = []
        self._count = 0
        # Whether a part was scored already: the first rows that wait are then context alone.
        self._begun = False
        self._scores: list[np.ndarray] = []

    def add(self, piece: Piece) -> None:
        """Takes the next snippets; scores a part once it is surely not the last one."""
        self._visual.append(piece.visual_TxNxD)
        if piece.text_TxE is not None:
            self._text.append(piece.text_TxE)
        self._count += len(piece.visual_TxNxD)
        while self._count > self.most:
            scores_T = self._score(self.most)
            start = self._overlap if self._begun else 0
            self._scores.append(scores_T[start : self.most - self._overlap])
            self._drop(self.most - 2 * self._overlap)
            self._begun = True

    def finish(self) -> np.ndarray:
        """Scores what is left; returns the scores of all snippets."""
        scores_T = self._score(self._count)
        self._scores.append(scores_T[self._overlap if self._begun else 0 :])
        return np.concatenate(self._scores)

    def _score(self, count: int) -> np.ndarray:
        self._join()
        text_TxE = self._text[0][:count] if self._text else None
        return self._model.score({"video": (self._visual[0][:count], text_TxE)})["video"]

    def _drop(self, count: int) -> None:
        # Copied, so that what was dropped is freed.
        self._visual = [self._visual[0][count:].copy()]
        self._text = [self._text[0][count:].copy()] if self._text else []
        self._count -= count

    def _join(self) -> None:
        self._visual = [np.concatenate(self._visual)]
        self._text = [np.concatenate(self._text)] if self._text else []
