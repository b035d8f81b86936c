"""Which cells of a picture moved more than they do in the quiet part of the same video."""

import abc
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

if TYPE_CHECKING:
    from generation.encoders.protocols import VisualEncoder
    from generation.media.reading import Picture

# Cells down and across, where the encoder has none of its own.
GRID = (4, 6)
# Width to which pictures are scaled for frame differences.
_WIDTH = 160
# Seconds between the two pictures of a pair: about nine pictures a second, as the motion encoder.
PAIR_SECONDS = 1 / 9
# Deviations from the usual above which a cell is marked; the highest one always is.
MARKED_FROM = 3.0
MOST_MARKED = 6
# Orange, RGB: visible on grey streets and green grass.
_COLOUR = (255, 122, 0)


class Meter(Protocol):
    """Measures how much each cell moves between two pictures of one video.

    Attributes:
      grid: cells down and across.
    """

    grid: tuple[int, int]

    def small(self, picture: "Picture") -> np.ndarray:
        """Reduces a picture to what `measure` takes, grey uint8."""
        ...

    def measure(self, before_HxW: np.ndarray, after_HxW: np.ndarray, seconds: float) -> np.ndarray:
        """Returns how much each cell moves, [rows, columns]."""
        ...


class _Grid(abc.ABC):
    grid: tuple[int, int] = GRID

    @abc.abstractmethod
    def _moved(self, before_HxW: np.ndarray, after_HxW: np.ndarray) -> np.ndarray: ...

    def measure(self, before_HxW: np.ndarray, after_HxW: np.ndarray, seconds: float) -> np.ndarray:
        """Returns log(1 + the 99th percentile of each cell's motion a second)."""
        moved_HxW = self._moved(before_HxW, after_HxW) / max(seconds, 1e-3)
        rows, columns = self.grid
        cells_RxC = [
            [_highest(part) for part in np.array_split(band, columns, axis=1)]
            for band in np.array_split(moved_HxW, rows, axis=0)
        ]
        return np.log1p(cells_RxC)


class FlowMeter(_Grid):
    """Optical flow in the motion encoder's cells, in percent of the width per second.

    Args:
      encoder: the motion encoder.
    """

    def __init__(self, encoder: "VisualEncoder"):
        self._encoder, self.grid = encoder, encoder.grid
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def small(self, picture: "Picture") -> np.ndarray:
        """Returns the picture that the encoder looks at."""
        return self._encoder.small(picture)

    def _moved(self, before_HxW: np.ndarray, after_HxW: np.ndarray) -> np.ndarray:
        flow_HxWx2 = self._flow.calc(before_HxW, after_HxW, None)
        return cv2.magnitude(flow_HxWx2[..., 0], flow_HxWx2[..., 1]) * (100 / before_HxW.shape[1])


class DifferenceMeter(_Grid):
    """Differences of grey levels, for encoders that look at single frames."""

    def small(self, picture: "Picture") -> np.ndarray:
        """Returns a small blurred picture; the blur removes camera noise."""
        width = min(_WIDTH, picture.width)
        height = max(1, round(picture.height * width / picture.width))
        return cv2.GaussianBlur(picture.scaled(width, height, "gray"), (0, 0), 1.0)

    def _moved(self, before_HxW: np.ndarray, after_HxW: np.ndarray) -> np.ndarray:
        return cv2.absdiff(before_HxW, after_HxW).astype(np.float64)


def meter_for(encoder: "VisualEncoder") -> Meter:
    """Returns the meter that fits an encoder; one for each video, because flow keeps a state."""
    return FlowMeter(encoder) if hasattr(encoder, "grid") else DifferenceMeter()


def deviations(event_SxRxC: np.ndarray, quiet_QxRxC: np.ndarray) -> np.ndarray:
    """Computes by how many standard deviations each cell moves more than usual.

    Args:
      event_SxRxC: what the meter says of pairs of pictures in the event.
      quiet_QxRxC: of pairs elsewhere.

    Returns:
      float64 [rows, columns]. A cell's deviation counts as no smaller than the picture's median
      one, because a cell in which nothing ever moved would stand out by noise.
    """
    usual_RxC, spread_RxC = quiet_QxRxC.mean(axis=0), quiet_QxRxC.std(axis=0)
    spread_RxC = np.maximum(spread_RxC, max(float(np.median(spread_RxC)), 0.05))
    return (event_SxRxC.mean(axis=0) - usual_RxC) / spread_RxC


def marked(deviations_RxC: np.ndarray) -> list[tuple[int, int, float]]:
    """Lists the cells to mark, (row, column, deviation), the highest first."""
    order = np.argsort(-deviations_RxC, axis=None, kind="stable")[:MOST_MARKED]
    rows, columns = np.unravel_index(order, deviations_RxC.shape)
    cells = [
        (int(row), int(column), round(float(deviations_RxC[row, column]), 2))
        for row, column in zip(rows, columns, strict=True)
    ]
    return [cell for i, cell in enumerate(cells) if not i or cell[2] >= MARKED_FROM]


def draw(
    image_HxWx3: np.ndarray, cells: list[tuple[int, int, float]], grid: tuple[int, int]
) -> np.ndarray:
    """Returns a picture with cells marked, RGB uint8.

    Args:
      image_HxWx3: the picture.
      cells: results of `marked`.
      grid: cells down and across.
    """
    height, width = image_HxWx3.shape[:2]
    tinted, drawn = image_HxWx3.copy(), image_HxWx3.copy()
    for row, column, _ in cells:
        # As np.array_split divides.
        top, bottom = (_border(height, grid[0], row + i) for i in (0, 1))
        left, right = (_border(width, grid[1], column + i) for i in (0, 1))
        tinted[top:bottom, left:right] = _COLOUR
    drawn = cv2.addWeighted(tinted, 0.25, drawn, 0.75, 0)
    for row, column, _ in cells:
        top, bottom = (_border(height, grid[0], row + i) for i in (0, 1))
        left, right = (_border(width, grid[1], column + i) for i in (0, 1))
        cv2.rectangle(drawn, (left + 1, top + 1), (right - 2, bottom - 2), _COLOUR, 2)
    return drawn


def _highest(part_HxW: np.ndarray) -> float:
    """Returns the 99th percentile; 0 for a cell of a picture that has fewer pixels than cells."""
    return float(np.percentile(part_HxW, 99)) if part_HxW.size else 0.0


def _border(length: int, parts: int, number: int) -> int:
    """Returns where part `number` of `length` pixels begins."""
    return number * (length // parts) + min(number, length % parts)
