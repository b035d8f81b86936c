"""The motion encoder: optical flow and image gradients on a grid, computed with OpenCV."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from generation.media.reading import Picture

# The motion encoder's default snippets: long enough to average out the noise of the flow, and close
# enough together to locate an event.
SNIPPET_FRAMES = 16
SNIPPET_STRIDE = 4


class MotionEncoder:
    """Describes motion by optical flow and gradient histograms on a grid, without weights.

    A video is looked at about 9 times a second, every third frame at 25 frames per second, in grey
    pictures of 240 pixels' width. Every pair of successive pictures is described on a 4x6 grid of
    cells by
      - the 99th percentile and the mean of the flow's speed, in percent of the width per second;
      - how uniformly the cell moves, |mean flow|, and the entropy of flow directions;
      - the change of the flow since the last pair (oscillation, jerk), 99th percentile and mean;
      - the gradients' strength and the difference between the frames;
      - histograms of flow directions and of gradient orientations.
    Because there are few training videos, only an outline of the places is kept. A frame's row
    holds, for each quantity of motion, the largest values over all cells and the largest value in
    each row and column of the grid, and all quantities of the four fastest cells and of the four
    cells with the strongest jerk. A snippet's row is the mean and the maximum over its frames.
    Heavy-tailed quantities are log(1 + x). Rates are per second, so that videos of different frame
    rates and sizes are comparable. The features should be standardised.

    Attributes:
      id, dim, crops, manifest: see VisualEncoder.
    """

    id = "motion-v2"
    grid = (4, 6)
    # Pictures are scaled down to this width, and to no more pixels than a square of it has.
    working_width = 240
    # Every n-th frame is taken: n is the video's frame rate over this one, rounded.
    working_fps = 9.0
    # OpenCV's flow reads out of bounds for smaller pictures.
    least_side = 16
    num_statistics = 8
    # The first statistics describe motion, the others appearance.
    num_motion_statistics = 6
    directions = 8
    orientations = 4
    order_statistics = (0, 1, 2, 4, 8, 16)
    # Statistics that select the cells to describe in full, and the number of cells for each.
    leading_statistics = (0, 4)
    leading_cells = 4

    def __init__(self):
        outline = self.num_motion_statistics * (len(self.order_statistics) + sum(self.grid))
        cell = self.num_statistics + self.directions + self.orientations
        leading = len(self.leading_statistics) * self.leading_cells * cell
        self.dim = 2 * (outline + leading + self.directions)
        self.crops = {"count": 1, "order": "whole"}
        self.manifest = {
            "id": self.id,
            "weights": "none",
            "pooling": "mean",
            "normalised": False,
            "standardise": True,
        }

    def begin(self, spans_Tx2: np.ndarray, num_frames: int, rate: float) -> "MotionStream":
        """Begins a video; see VisualEncoder.begin."""
        return MotionStream(self, spans_Tx2, num_frames, rate)

    def small(self, picture: "Picture") -> np.ndarray:
        """Returns a frame's small grey picture, uint8."""
        width, height = picture.width, picture.height
        scale = min(1.0, self.working_width / max(width, (width * height) ** 0.5))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        grey_HxW = picture.scaled(*size, "gray")
        below, beside = (max(0, self.least_side - side) for side in grey_HxW.shape)
        if not below and not beside:
            return grey_HxW
        # Padded, because stretching would change speeds.
        return cv2.copyMakeBorder(grey_HxW, 0, below, 0, beside, cv2.BORDER_REPLICATE)

    def row(
        self,
        flow_HxWx2: np.ndarray,
        last_HxWx2: np.ndarray,
        grey_HxW: np.ndarray,
        difference_HxW: np.ndarray,
    ) -> np.ndarray:
        """Computes the row of one frame.

        Args:
          flow_HxWx2: flow to this frame, in percent of the width per second.
          last_HxWx2: the flow before that one.
          grey_HxW: the frame.
          difference_HxW: absolute difference to the frame before it.

        Returns:
          float64 [dim / 2].
        """
        speed_HxW, angle_HxW = cv2.cartToPolar(flow_HxWx2[..., 0], flow_HxWx2[..., 1])
        strength_HxW, slope_HxW = cv2.cartToPolar(
            cv2.Sobel(grey_HxW, cv2.CV_32F, 1, 0), cv2.Sobel(grey_HxW, cv2.CV_32F, 0, 1)
        )
        change_HxWx2 = flow_HxWx2 - last_HxWx2
        change_HxW = cv2.magnitude(change_HxWx2[..., 0], change_HxWx2[..., 1])
        directions_CxK = self._histogram(angle_HxW, speed_HxW, self.directions)
        # The two sides of an edge have opposite gradients but the same orientation.
        orientations_CxK = self._histogram(2 * slope_HxW, strength_HxW, self.orientations)
        mean_C, right_C, down_C = self._cell_means(speed_HxW, *cv2.split(flow_HxWx2))
        jerk_C, edges_C, difference_C = self._cell_means(
            change_HxW, strength_HxW, np.float32(difference_HxW)
        )
        share_CxK = directions_CxK / (directions_CxK.sum(axis=1, keepdims=True) + 1e-3)
        entropy_C = -(share_CxK * np.log(share_CxK + 1e-6)).sum(axis=1)
        statistics_SxC = np.stack(
            [
                np.log1p(self._cell_percentile(speed_HxW)),
                np.log1p(mean_C),
                np.log1p(np.hypot(right_C, down_C)),
                # Directions of what doesn't move are noise.
                entropy_C * np.minimum(mean_C, 1.0),
                np.log1p(self._cell_percentile(change_HxW)),
                np.log1p(jerk_C),
                np.log1p(edges_C),
                np.log1p(difference_C),
            ]
        )
        return self._outlined(statistics_SxC, directions_CxK, orientations_CxK)

    def _outlined(
        self,
        statistics_SxC: np.ndarray,
        directions_CxK: np.ndarray,
        orientations_CxK: np.ndarray,
    ) -> np.ndarray:
        """Reduces each quantity in each cell, those of motion first, to an outline of the place."""
        moving_SxC = statistics_SxC[: self.num_motion_statistics]
        ranked_SxR = -np.sort(-moving_SxC, axis=1)[:, self.order_statistics]
        moving_SxIxJ = moving_SxC.reshape(-1, *self.grid)
        outline_SxL = np.concatenate([moving_SxIxJ.max(axis=2), moving_SxIxJ.max(axis=1)], axis=1)
        histograms_CxK = np.log1p(np.concatenate([directions_CxK, orientations_CxK], axis=1))
        cells_CxV = np.concatenate([statistics_SxC.T, histograms_CxK], axis=1)
        leading = [
            cells_CxV[np.argsort(-statistics_SxC[by], kind="stable")[: self.leading_cells]]
            for by in self.leading_statistics
        ]
        busiest_K = np.log1p(directions_CxK.max(axis=0))
        return np.concatenate(
            [ranked_SxR.ravel(), outline_SxL.ravel(), np.ravel(leading), busiest_K]
        )

    def _cell_means(self, *images_HxW: np.ndarray) -> np.ndarray:
        """Computes the mean of each image in each cell [V, C]; OpenCV takes up to four at once."""
        rows, columns = self.grid
        means_IxJxV = cv2.resize(
            cv2.merge(images_HxW), (columns, rows), interpolation=cv2.INTER_AREA
        )
        # In float64, whose last bits, which depend on where arrays lie in memory, no row shows.
        return means_IxJxV.reshape(rows * columns, -1).T.astype(np.float64)

    def _cell_percentile(self, image_HxW: np.ndarray) -> np.ndarray:
        """Computes the 99th percentile in each cell [C], without incomplete rows and columns."""
        rows, columns = self.grid
        height, width = image_HxW.shape[0] // rows, image_HxW.shape[1] // columns
        cells = image_HxW[: rows * height, : columns * width].reshape(rows, height, columns, width)
        cells = cells.swapaxes(1, 2).reshape(rows * columns, -1)
        place = int(0.99 * (cells.shape[1] - 1))
        return np.partition(cells, place, axis=1)[:, place].astype(np.float64)

    def _histogram(self, angle_HxW: np.ndarray, weight_HxW: np.ndarray, bins: int) -> np.ndarray:
        """Computes weighted histograms of angles [C, bins], as means over the cell's pixels."""
        # Angles may be more than a turn; the numbers of bins are powers of two.
        bin_HxW = (angle_HxW * np.float32(bins / (2 * np.pi))).astype(np.int64) & (bins - 1)
        num_cells = self.grid[0] * self.grid[1]
        bin_HxW += _first_bins(angle_HxW.shape, self.grid, bins)
        sums = np.bincount(bin_HxW.ravel(), weight_HxW.ravel(), minlength=num_cells * bins)
        return sums.reshape(num_cells, bins) * num_cells / angle_HxW.size


class MotionStream:
    """The motion encoder's work on one video; see protocols.Stream.

    Args:
      encoder: the encoder.
      spans_Tx2: [start, end) of each snippet in frames.
      num_frames: frames of the video.
      rate: frames per second.
    """

    def __init__(self, encoder: MotionEncoder, spans_Tx2: np.ndarray, num_frames: int, rate: float):
        self._encoder = encoder
        # A video of two frames shows motion too.
        step = min(max(1, round(rate / encoder.working_fps)), max(1, num_frames - 1))
        self.wanted_F = np.arange(0, num_frames, step)
        # Of each snippet, the working frames inside it, or else the last one before it.
        last_T = np.searchsorted(self.wanted_F, spans_Tx2[:, 1])
        first_T = np.minimum(np.searchsorted(self.wanted_F, spans_Tx2[:, 0]), last_T - 1)
        self._places_Tx2 = np.stack([first_T, last_T], axis=1)
        self._pace = 100.0 * rate / step  # percent per second
        # A new one for each video, because it keeps the finest scale of the smallest picture.
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._rows: list[np.ndarray] = []
        self._dropped = 0  # rows that no later snippet needs
        self._given = 0  # snippets
        self._grey_HxW: np.ndarray | None = None
        self._last_HxWx2: np.ndarray | None = None

    def prepare(self, picture: "Picture") -> np.ndarray:
        """Returns the small grey picture."""
        return self._encoder.small(picture)

    def take(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Takes the next of the wanted frames; returns [1, dim] of each snippet that they end."""
        for grey_HxW in frames:
            self._add(grey_HxW)
        features = []
        while self._given < len(self._places_Tx2):
            first, last = self._places_Tx2[self._given] - self._dropped
            if last > len(self._rows):
                break
            inside_FxM = np.stack(self._rows[first:last])
            pooled_D = np.concatenate([inside_FxM.mean(axis=0), inside_FxM.max(axis=0)])
            features.append(np.float32(pooled_D)[None])
            self._given += 1
        if self._given < len(self._places_Tx2):
            # Later snippets start no earlier.
            surplus = min(self._places_Tx2[self._given, 0] - self._dropped, len(self._rows))
            del self._rows[:surplus]
            self._dropped += surplus
        return features

    def _add(self, grey_HxW: np.ndarray) -> None:
        """Adds a frame's row; the first frame takes the motion of the second one."""
        before_HxW, last_HxWx2 = self._grey_HxW, self._last_HxWx2
        self._grey_HxW = grey_HxW
        if before_HxW is None:
            if len(self.wanted_F) > 1:
                return
            before_HxW = grey_HxW
        flow_HxWx2 = self._flow.calc(before_HxW, grey_HxW, None)
        flow_HxWx2 *= np.float32(self._pace / grey_HxW.shape[1])
        self._last_HxWx2 = flow_HxWx2
        difference_HxW = cv2.absdiff(before_HxW, grey_HxW)
        if last_HxWx2 is None:
            last_HxWx2 = flow_HxWx2
            if len(self.wanted_F) > 1:
                self._rows.append(
                    self._encoder.row(flow_HxWx2, flow_HxWx2, before_HxW, difference_HxW)
                )
        self._rows.append(self._encoder.row(flow_HxWx2, last_HxWx2, grey_HxW, difference_HxW))


@functools.lru_cache(maxsize=8)
def _first_bins(shape: tuple[int, int], grid: tuple[int, int], bins: int) -> np.ndarray:
    """Returns for each pixel the index of its cell's first bin."""
    rows = np.arange(shape[0]) * grid[0] // shape[0]
    columns = np.arange(shape[1]) * grid[1] // shape[1]
    return (rows[:, None] * grid[1] + columns) * bins
