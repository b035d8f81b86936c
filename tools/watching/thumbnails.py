"""Pictures of events: the frame of the peak, with the cells marked that moved unusually."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from gvvad_jax.events import Event
from tools.watching import cells

if TYPE_CHECKING:
    from generation.encoders.protocols import VisualEncoder
    from generation.media.reading import Picture, Reader
    from tools.watching.scoring import Scores

_WIDTH = 480
_QUALITY = 85
# Pairs of pictures in the peak's snippet, and in quiet snippets, that are compared.
_EVENT_PAIRS, _QUIET_PAIRS = 3, 24


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A picture of an event.

    Attributes:
      jpeg: the file's bytes.
      cells: the cells that are marked: row, column, deviations from the usual.
      grid: cells down and across.
    """

    jpeg: bytes
    cells: list[tuple[int, int, float]]
    grid: tuple[int, int]


def of_events(
    reader: "Reader", events: Sequence[Event], scores: "Scores", encoder: "VisualEncoder"
) -> list[Thumbnail]:
    """Reads a video again, once, and draws a picture of each of its events.

    Args:
      reader: the video.
      events: its events.
      scores: its scores, which say where it is quiet.
      encoder: the run's encoder; see cells.meter_for.
    """
    if not events:
        return []
    meter = cells.meter_for(encoder)
    times_F = _frame_times(reader, scores)
    peaks = [_frame_at(times_F, event.peak_time) for event in events]
    pairs = [_pairs_in(times_F, *_peak_span(event, scores)) for event in events]
    quiet = [pair for span in _quiet_spans(events, scores) for pair in _pairs_in(times_F, *span, 1)]
    every = sorted({pair for group in (*pairs, quiet) for pair in group})
    pictures, moved = _read(reader, meter, set(peaks), every, times_F)
    usual = [moved[pair] for pair in quiet if pair in moved]
    drawn = []
    for peak, own in zip(peaks, pairs, strict=True):
        measured = [moved[pair] for pair in own if pair in moved]
        found = []
        if measured and usual:
            found = cells.marked(cells.deviations(np.stack(measured), np.stack(usual)))
        picture = pictures.get(peak)
        if picture is None:  # Damage: another decoder thread lost the frame.
            picture = next(iter(pictures.values()), np.zeros((2, 2, 3), np.uint8))
        image = cells.draw(_decoded(picture), found, meter.grid)
        drawn.append(Thumbnail(jpeg(image), found, meter.grid))
    return drawn


def jpeg(image_HxWx3: np.ndarray, quality: int = _QUALITY) -> bytes:
    """Returns an RGB uint8 picture as a JPEG file."""
    ok, data = cv2.imencode(".jpg", image_HxWx3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return data.tobytes()


def small_rgb(picture: "Picture") -> np.ndarray:
    """Returns a frame in a thumbnail's size, RGB uint8."""
    scale = min(1.0, _WIDTH / max(picture.width, picture.height))
    width, height = (max(1, round(n * scale)) for n in (picture.width, picture.height))
    return picture.scaled(width, height, "rgb24")


def _decoded(picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 3:
        return picture
    return np.ascontiguousarray(cv2.imdecode(picture, cv2.IMREAD_COLOR)[..., ::-1])


def _frame_times(reader: "Reader", scores: "Scores") -> np.ndarray:
    if reader.times_F is not None and len(reader.times_F):
        return reader.times_F
    return np.arange(scores.facts.num_frames) / scores.facts.fps


def _frame_at(times_F: np.ndarray, second: float) -> int:
    """Returns the frame that is shown at a time."""
    return max(0, int(np.searchsorted(times_F, second + 1e-3, side="right")) - 1)


def _pairs_in(
    times_F: np.ndarray, start: float, end: float, count: int = _EVENT_PAIRS
) -> list[tuple[int, int]]:
    """Returns pairs of frames, PAIR_SECONDS apart or the next ones, spread over a time span."""
    length = max(0.0, end - start - cells.PAIR_SECONDS)
    pairs = []
    for number in range(count):
        first = _frame_at(times_F, start + length * (number + 0.5) / count)
        second = max(first + 1, _frame_at(times_F, times_F[first] + cells.PAIR_SECONDS))
        if second >= len(times_F):
            first, second = len(times_F) - 2, len(times_F) - 1
        if first >= 0:
            pairs.append((first, second))
    return list(dict.fromkeys(pairs))


def _peak_span(event: Event, scores: "Scores") -> tuple[float, float]:
    """Returns start and end of the snippet of the peak."""
    times_Tx2 = scores.facts.times_Tx2
    at = int(np.argmin(np.abs(times_Tx2.mean(axis=1) - event.peak_time)))
    return float(times_Tx2[at, 0]), float(times_Tx2[at, 1])


def _quiet_spans(events: Sequence[Event], scores: "Scores") -> list[tuple[float, float]]:
    """Returns the snippets that are taken for normal: outside events, of the lower half of scores.

    In a video that is an event throughout, they are the lowest quarter.
    """
    times_Tx2, scores_T = scores.facts.times_Tx2, scores.scores_T
    outside_T = np.ones(len(scores_T), bool)
    for event in events:
        outside_T &= (times_Tx2[:, 1] <= event.start) | (times_Tx2[:, 0] >= event.end)
    quiet = np.flatnonzero(outside_T)
    if len(quiet):
        quiet = quiet[scores_T[quiet] <= np.median(scores_T[quiet])]
    else:
        quiet = np.sort(np.argsort(scores_T, kind="stable")[: max(1, len(scores_T) // 4)])
    chosen = quiet[np.unique(np.linspace(0, len(quiet) - 1, _QUIET_PAIRS).round().astype(int))]
    return [(float(start), float(end)) for start, end in times_Tx2[chosen]]


def _read(
    reader: "Reader",
    meter: cells.Meter,
    peaks: set[int],
    pairs: Sequence[tuple[int, int]],
    times_F: np.ndarray,
) -> tuple[dict[int, np.ndarray], dict[tuple[int, int], np.ndarray]]:
    """Reads the wanted frames; returns small pictures of the peaks, and what moved in each pair.

    Pictures are kept as JPEG, because a long video may have many events.
    """
    wanted = sorted(peaks | {frame for pair in pairs for frame in pair})
    ends: dict[int, list[tuple[int, int]]] = {}
    last_use: dict[int, int] = {}
    for pair in sorted(pairs):
        ends.setdefault(pair[1], []).append(pair)
        last_use[pair[0]] = max(pair[1], last_use.get(pair[0], 0))
    pictures: dict[int, np.ndarray] = {}
    moved: dict[tuple[int, int], np.ndarray] = {}
    kept: dict[int, np.ndarray] = {}
    frames = reader.frames(wanted, threads=not reader.damaged)
    for index, picture in frames:
        if index in peaks:
            pictures[index] = np.frombuffer(jpeg(small_rgb(picture), 95), np.uint8)
        if index in last_use or index in ends:
            small_HxW = meter.small(picture)
            for pair in ends.get(index, ()):
                if pair[0] in kept:
                    seconds = float(times_F[pair[1]] - times_F[pair[0]])
                    moved[pair] = meter.measure(kept[pair[0]], small_HxW, seconds)
            kept = {frame: kept[frame] for frame in kept if last_use[frame] > index}
            if index in last_use:
                kept[index] = small_HxW
        if index == wanted[-1]:
            break
    frames.close()
    return pictures, moved
