"""The motion encoder: optical flow and image gradients on a grid, computed with OpenCV."""

import functools
from collections.abc import Iterator

import cv2
import numpy as np

# The motion encoder's default snippets: long enough to average out the noise of the flow, and close
# enough together to locate an event.
SNIPPET_FRAMES = 16
SNIPPET_STRIDE = 4


class MotionEncoder:
    """Describes motion by optical flow and gradient histograms on a grid, without weights.

    Every pair of neighbouring frames is described on a 4x6 grid of cells by
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
      id, dim, crops, manifest, whole_video: see VisualEncoder.
    """

    id = "motion-v1"
    whole_video = True
    grid = (4, 6)
    working_width = 240
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
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def encode_video(
        self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float
    ) -> np.ndarray:
        """Computes the features of a video's snippets.

        Args:
          frames_FxHxWx3: RGB uint8.
          spans_Tx2: [start, end) of each snippet in these frames.
          fps: frames per second.

        Returns:
          float32 [T, 1, dim].
        """
        cv2.setNumThreads(1)
        rows_FxM = np.stack(list(self._frame_rows(frames_FxHxWx3, fps)))
        feat_TxD = [
            np.concatenate([rows_FxM[start:end].mean(axis=0), rows_FxM[start:end].max(axis=0)])
            for start, end in spans_Tx2
        ]
        return np.float32(feat_TxD)[:, None]

    def _frame_rows(self, frames_FxHxWx3: np.ndarray, fps: float) -> Iterator[np.ndarray]:
        """Yields one row per frame; the first frame takes the motion of the second one."""
        gray = [self._working(frame) for frame in frames_FxHxWx3]
        per_second = 100.0 * fps / gray[0].shape[1]
        flow_HxWx2 = None
        for i in range(len(gray)):
            before, after = (max(i, 1) - 1, max(i, 1)) if len(gray) > 1 else (0, 0)
            last_HxWx2 = flow_HxWx2
            if i != 1 or flow_HxWx2 is None:
                flow_HxWx2 = self._flow.calc(gray[before], gray[after], None) * per_second
            if last_HxWx2 is None:
                last_HxWx2 = flow_HxWx2
            gradient_HxWx2 = np.stack(
                [cv2.Sobel(gray[i], cv2.CV_32F, 1, 0), cv2.Sobel(gray[i], cv2.CV_32F, 0, 1)], -1
            )
            difference_HxW = cv2.absdiff(gray[before], gray[after])
            yield self._row(flow_HxWx2, last_HxWx2, gradient_HxWx2, difference_HxW)

    def _working(self, frame_HxWx3: np.ndarray) -> np.ndarray:
        gray_HxW = cv2.cvtColor(frame_HxWx3, cv2.COLOR_RGB2GRAY)
        height, width = gray_HxW.shape
        if width > self.working_width:
            size = (self.working_width, max(1, round(height * self.working_width / width)))
            gray_HxW = cv2.resize(gray_HxW, size, interpolation=cv2.INTER_AREA)
        below, beside = (max(0, self.least_side - side) for side in gray_HxW.shape)
        if not below and not beside:
            return gray_HxW
        # Padded, because stretching would change speeds.
        return cv2.copyMakeBorder(gray_HxW, 0, below, 0, beside, cv2.BORDER_REPLICATE)

    def _row(
        self,
        flow_HxWx2: np.ndarray,
        last_HxWx2: np.ndarray,
        gradient_HxWx2: np.ndarray,
        difference_HxW: np.ndarray,
    ) -> np.ndarray:
        """Computes the row of one frame."""
        speed_HxW = np.linalg.norm(flow_HxWx2, axis=2)
        strength_HxW = np.linalg.norm(gradient_HxWx2, axis=2)
        directions_CxK = self._histogram(_angle(flow_HxWx2), speed_HxW, self.directions)
        # The two sides of an edge have opposite gradients but the same orientation.
        orientations_CxK = self._histogram(
            2 * _angle(gradient_HxWx2), strength_HxW, self.orientations
        )
        statistics_SxC = self._statistics(
            flow_HxWx2, last_HxWx2, directions_CxK, strength_HxW, difference_HxW
        )
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

    def _statistics(
        self,
        flow_HxWx2: np.ndarray,
        last_HxWx2: np.ndarray,
        directions_CxK: np.ndarray,
        strength_HxW: np.ndarray,
        difference_HxW: np.ndarray,
    ) -> np.ndarray:
        """Computes each quantity in each cell [S, C], those of motion first."""
        speed_HxW = np.linalg.norm(flow_HxWx2, axis=2)
        change_HxW = np.linalg.norm(flow_HxWx2 - last_HxWx2, axis=2)
        mean_C = self._cell_mean(speed_HxW).ravel()
        as_one_C = np.linalg.norm(self._cell_mean(flow_HxWx2).reshape(-1, 2), axis=1)
        share_CxK = directions_CxK / (directions_CxK.sum(axis=1, keepdims=True) + 1e-3)
        entropy_C = -(share_CxK * np.log(share_CxK + 1e-6)).sum(axis=1)
        return np.stack(
            [
                np.log1p(self._cell_percentile(speed_HxW)),
                np.log1p(mean_C),
                np.log1p(as_one_C),
                # Directions of what doesn't move are noise.
                entropy_C * np.minimum(mean_C, 1.0),
                np.log1p(self._cell_percentile(change_HxW)),
                np.log1p(self._cell_mean(change_HxW).ravel()),
                np.log1p(self._cell_mean(strength_HxW).ravel()),
                np.log1p(self._cell_mean(difference_HxW.astype(np.float32)).ravel()),
            ]
        )

    def _cell_mean(self, image_HxWx: np.ndarray) -> np.ndarray:
        rows, columns = self.grid
        return cv2.resize(image_HxWx, (columns, rows), interpolation=cv2.INTER_AREA)

    def _cell_percentile(self, image_HxW: np.ndarray) -> np.ndarray:
        """Computes the 99th percentile in each cell [C], without incomplete rows and columns."""
        rows, columns = self.grid
        height, width = image_HxW.shape[0] // rows, image_HxW.shape[1] // columns
        cells = image_HxW[: rows * height, : columns * width].reshape(rows, height, columns, width)
        cells = cells.swapaxes(1, 2).reshape(rows * columns, -1)
        place = int(0.99 * (cells.shape[1] - 1))
        return np.partition(cells, place, axis=1)[:, place]

    def _histogram(self, angle_HxW: np.ndarray, weight_HxW: np.ndarray, bins: int) -> np.ndarray:
        """Computes weighted histograms of angles [C, bins], as means over the cell's pixels."""
        turns_HxW = (angle_HxW / (2 * np.pi)) % 1.0
        bin_HxW = np.minimum((turns_HxW * bins).astype(np.int32), bins - 1)
        cell_HxW = _cell_index(angle_HxW.shape, self.grid)
        num_cells = self.grid[0] * self.grid[1]
        index = (cell_HxW * bins + bin_HxW).ravel()
        sums = np.bincount(index, weight_HxW.ravel(), minlength=num_cells * bins)
        return sums.reshape(num_cells, bins) * num_cells / angle_HxW.size


def _angle(vectors_HxWx2: np.ndarray) -> np.ndarray:
    return np.arctan2(vectors_HxWx2[..., 1], vectors_HxWx2[..., 0])


@functools.lru_cache(maxsize=8)
def _cell_index(shape: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    rows = np.arange(shape[0]) * grid[0] // shape[0]
    columns = np.arange(shape[1]) * grid[1] // shape[1]
    return rows[:, None] * grid[1] + columns
