"""Measures of a video's pixels, which the filter judges beside features.

A `Meter` measures up to eight frames per second of up to ten seconds in the middle of a video, so
that minutes of footage and a generated video of six seconds are comparable. It keeps only a small
grey picture of each frame. All rates are per second, all distances in percent of the width.
"""

import itertools

import cv2
import numpy as np

# Frames per second and number of frames that are measured at most.
RATE = 8.0
MAX_FRAMES = 80
# All measures except blocks and bands are taken at this width, so that sizes do not matter.
WIDTH = 160
_CELLS = (6, 8)
# Standard deviation in grey levels below which a picture counts as flat.
_FLAT = 3.0
# Codecs and models work in blocks of this many pixels, or of a multiple.
_BLOCK = 8


def wanted_frames(num_frames: int, fps: float) -> np.ndarray:
    """Returns the frames to measure: int64, sorted, evenly spaced around the video's middle."""
    step = max(1.0, fps / RATE)
    count = min(MAX_FRAMES, int((num_frames - 1) / step + 1e-6) + 1) if num_frames > 0 else 0
    first = (num_frames - 1 - (count - 1) * step) / 2
    return np.floor(first + step * np.arange(count) + 0.5).astype(np.int64)


class Meter:
    """Measures one video while it is decoded.

    Args:
      num_frames: number of frames that the video has or declares.
      fps: frames per second.

    Attributes:
      wanted: the frames to `add`, int64, sorted.

    Raises:
      ValueError: fps is not a positive number.
    """

    def __init__(self, num_frames: int, fps: float):
        if not 0 < fps < float("inf"):
            raise ValueError(f"expected a positive number of frames per second, found {fps}")
        self.wanted = wanted_frames(num_frames, fps)
        self._fps = fps
        self._small, self._blocks, self._bands = [], [], []

    def add(self, grey_HxW: np.ndarray) -> None:
        """Measures the next of the wanted frames, grey uint8."""
        if len(self._small) == len(self.wanted):
            raise ValueError(f"expected {len(self.wanted)} frames, found one more")
        self._blocks.append(_blockiness(grey_HxW))
        self._bands.append(_banding(grey_HxW))
        self._small.append(_small(grey_HxW))

    def statistics(self, decoded_frames: int, declared_frames: int) -> dict[str, float]:
        """Returns the measures of the added frames; the last wanted frames may be missing.

        Args:
          decoded_frames: number of decoded frames of the whole video, measured or not.
          declared_frames: number of frames that the container declares; 0 if unknown.

        Returns:
          decoded_share: decoded over declared frames; 1 if none are declared.
          black_share: share of frames that are almost entirely black.
          blank_share: share of frames that are one flat colour.
          frozen_share: share of steps between frames without change: less than one grey level in
            the busiest cell after matching brightness and contrast.
          cut_ratio: largest change (1 - correlation of two successive frames) over the largest of
            the three changes before and after it. A cut stands alone, while a flash ends with a
            second change, and shaking or speed lasts.
          cut_change: the change at the cut, measured on structure without slow shading, so that
            switching on a lamp changes little.
          flicker: lower quartile of the deviation of a frame's mean grey from its neighbours',
            without flashes. A model's flicker is in most frames; gunshots are in some frames only
            and must not count.
          motion: mean flow of the fastest 5 % of pixels, in percent of the width per second.
          camera: median flow of all pixels, in the same unit; almost 0 for a fixed camera.
          drift: flow of the median cell averaged over a second, in the same unit: sway in the wind
            cancels out, a pan or zoom does not.
          scene: largest structural change between the median pictures of two spans of a second
            that are one second apart. It is small for a fixed camera whatever happens, and large
            for cuts and dissolves.
          sharpness: median variance of the Laplacian.
          detail: median energy of fine structure over that of structure twice as coarse; it falls
            with blur, whatever the contrast.
          grain: median deviation of fine structure from the neighbouring frames, in grey levels.
          carried: where a frame differs from the one after next, squared deviation of the frame
            between them from their mean, over the squared difference. It is small for ghosts and
            blended frames, which lie on that mean, and large for moving objects.
          blocks: strength of edges on a grid of 8 pixels over that of other edges, minus 1.
          bands: share of the grey histogram in isolated levels.

          Without any frame, only decoded_share is returned.
        """
        decoded_share = decoded_frames / declared_frames if declared_frames else 1.0
        measured = {"decoded_share": decoded_share}
        if self._small:
            seconds_F = self.wanted[: len(self._small)] / self._fps
            measured |= _measures(np.stack(self._small), np.diff(seconds_F))
            measured |= {"blocks": np.median(self._blocks) - 1, "bands": np.median(self._bands)}
        return {name: round(float(value), 4) for name, value in measured.items()}


def pixel_statistics(
    frames_FxHxWx3: np.ndarray, fps: float, declared_frames: int = 0
) -> dict[str, float]:
    """Measures a video that is in memory; see `Meter.statistics`.

    Args:
      frames_FxHxWx3: RGB uint8, at least one frame.
      fps: frames per second.
      declared_frames: number of frames that the container declares; 0 if unknown.
    """
    meter = Meter(len(frames_FxHxWx3), fps)
    for index in meter.wanted:
        meter.add(cv2.cvtColor(frames_FxHxWx3[index], cv2.COLOR_RGB2GRAY))
    return meter.statistics(len(frames_FxHxWx3), declared_frames)


def _small(grey_HxW: np.ndarray) -> np.ndarray:
    height, width = grey_HxW.shape
    if width == WIDTH:
        return grey_HxW
    size = (WIDTH, max(32, round(height * WIDTH / width)))
    return cv2.resize(grey_HxW, size, interpolation=cv2.INTER_AREA)


def _blockiness(grey_HxW: np.ndarray) -> float:
    """Returns the strongest of a grid's offsets over their median, in the weaker direction."""
    if min(grey_HxW.shape) <= _BLOCK:
        return 1.0
    strengths = []
    across_HxW = cv2.absdiff(grey_HxW[:, 1:], grey_HxW[:, :-1])
    down_HxW = cv2.absdiff(grey_HxW[1:], grey_HxW[:-1])
    for image, axis in ((across_HxW, 0), (down_HxW, 1)):
        edges_W = cv2.reduce(image, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
        edges_W = edges_W / image.shape[axis]
        whole = len(edges_W) // _BLOCK * _BLOCK
        places_8 = edges_W[:whole].reshape(-1, _BLOCK).mean(axis=0)
        strengths.append(places_8.max() / max(np.median(places_8), 0.1))
    return min(strengths)


def _banding(grey_HxW: np.ndarray) -> float:
    """Returns the share of isolated grey levels; blurring removes dithered levels."""
    blurred = cv2.blur(grey_HxW, (5, 5))
    share_256 = cv2.calcHist([blurred], [0], None, [256], [0, 256]).ravel() / blurred.size
    around_256 = np.convolve(share_256, np.full(9, 1 / 9), "same")
    return float(np.abs(share_256 - around_256).sum() / 2)


def _measures(small_FxHxW: np.ndarray, gaps_S: np.ndarray) -> dict[str, float]:
    flat_FxP = small_FxHxW.reshape(len(small_FxHxW), -1)
    steps = [_change(a, b) for a, b in itertools.pairwise(small_FxHxW)] or [(0.0, 1.0)]
    change_S, busiest_S = np.array(steps).T
    cut = int(np.argmax(change_S))
    around = np.concatenate([change_S[max(0, cut - 3) : cut], change_S[cut + 1 : cut + 4]])
    motion, camera, drift = _flow(small_FxHxW, gaps_S)
    grain, carried = _between(small_FxHxW, gaps_S)
    return {
        "black_share": np.mean(np.percentile(flat_FxP, 99, axis=1) < 16),
        "blank_share": np.mean(flat_FxP.std(axis=1) < _FLAT),
        "frozen_share": np.mean(busiest_S < 1.0),
        "cut_ratio": change_S[cut] / max(around.max(initial=0.0), 0.01),
        "cut_change": _structural_change(small_FxHxW[cut : cut + 2]),
        "flicker": _flicker(flat_FxP.mean(axis=1), gaps_S),
        "motion": motion,
        "camera": camera,
        "drift": drift,
        "scene": _scene_change(small_FxHxW, gaps_S),
        "sharpness": np.median([cv2.Laplacian(grey, cv2.CV_32F).var() for grey in small_FxHxW]),
        "detail": np.median([_detail(grey) for grey in small_FxHxW]),
        "grain": grain,
        "carried": carried,
    }


def _change(
    before_HxW: np.ndarray, after_HxW: np.ndarray, flat: float = _FLAT
) -> tuple[float, float]:
    """Returns 1 - correlation, and the busiest cell's change after matching contrast."""
    before_HxW = before_HxW - np.float32(before_HxW.mean())
    after_HxW = after_HxW - np.float32(after_HxW.mean())
    product, square = float(np.vdot(before_HxW, after_HxW)), float(np.vdot(before_HxW, before_HxW))
    residual_HxW = np.abs(after_HxW - product / max(square, 1e-6) * before_HxW)
    cells = cv2.resize(residual_HxW, _CELLS[::-1], interpolation=cv2.INTER_AREA)
    norms = np.sqrt(square * float(np.vdot(after_HxW, after_HxW)))
    # Correlations of flat pictures are meaningless.
    is_flat = norms < flat**2 * before_HxW.size
    return 0.0 if is_flat else 1.0 - product / norms, float(cells.max())


def _structural_change(pair_2xHxW: np.ndarray, finest: float = 1, coarsest: float = 6) -> float:
    if len(pair_2xHxW) < 2 or pair_2xHxW.std(axis=(1, 2)).min() < _FLAT:
        return 0.0
    fine, coarse = (
        [cv2.GaussianBlur(grey.astype(np.float32), (0, 0), sigma) for grey in pair_2xHxW]
        for sigma in (finest, coarsest)
    )
    return _change(fine[0] - coarse[0], fine[1] - coarse[1], flat=0.1)[0]


def _midway(values_Fx: np.ndarray, gaps_S: np.ndarray) -> np.ndarray:
    """Interpolates each inner frame linearly between its neighbours."""
    share_S = np.float32(gaps_S[1:] / (gaps_S[1:] + gaps_S[:-1]))
    share_Sx = share_S.reshape(-1, *[1] * (values_Fx.ndim - 1))
    return share_Sx * values_Fx[:-2] + (1 - share_Sx) * values_Fx[2:]


def _flicker(brightness_F: np.ndarray, gaps_S: np.ndarray) -> float:
    if len(brightness_F) < 3:
        return 0.0
    departure_S = np.abs(brightness_F[1:-1] - _midway(brightness_F, gaps_S))
    # Flashes are brighter than the five frames around them.
    padded = np.pad(brightness_F, 2, mode="edge")
    around_Fx5 = np.lib.stride_tricks.sliding_window_view(padded, 5)
    above_F = brightness_F - np.median(around_Fx5, axis=1)
    flash_F = above_F > max(3.0, 4 * float(np.median(np.abs(above_F))))
    calm_S = ~(flash_F[:-2] | flash_F[1:-1] | flash_F[2:])
    if calm_S.sum() >= len(calm_S) / 4:
        departure_S = departure_S[calm_S]
    return float(np.quantile(departure_S, 0.25))


def _flow(small_FxHxW: np.ndarray, gaps_S: np.ndarray) -> tuple[float, float, float]:
    """Returns motion, camera and drift, see `Meter.statistics`."""
    if len(small_FxHxW) < 2:
        return 0.0, 0.0, 0.0
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    fastest, median, cells = [], [], []
    for step, gap in enumerate(gaps_S):
        flow_HxWx2 = dense.calc(small_FxHxW[step], small_FxHxW[step + 1], None)
        flow_HxWx2 *= np.float32(100 / (WIDTH * gap))
        speed_P = np.hypot(flow_HxWx2[..., 0], flow_HxWx2[..., 1]).ravel()
        middle, fast = len(speed_P) // 2, int(0.95 * len(speed_P))
        speed_P.partition((middle, fast))
        median.append(speed_P[middle])
        fastest.append(speed_P[fast:].mean())
        cells.append(cv2.resize(flow_HxWx2, _CELLS[::-1], interpolation=cv2.INTER_AREA))
    window = min(len(cells), round(RATE))
    total = np.cumsum([np.zeros_like(cells[0]), *cells], axis=0)
    drift_Sx6x8x2 = (total[window:] - total[:-window]) / window
    drift_SxC = np.linalg.norm(drift_Sx6x8x2, axis=-1).reshape(len(drift_Sx6x8x2), -1)
    return float(np.mean(fastest)), float(np.mean(median)), float(np.median(drift_SxC, 1).mean())


def _scene_change(small_FxHxW: np.ndarray, gaps_S: np.ndarray) -> float:
    second_F = np.concatenate([[0], np.cumsum(gaps_S)]).astype(int)
    spans = np.split(small_FxHxW, np.flatnonzero(np.diff(second_F)) + 1)
    # The median of fewer frames does not show the place alone.
    places = [np.median(span, axis=0) for span in spans if len(span) >= 3]
    pairs = [np.stack(pair) for pair in zip(places, places[2:], strict=False)]
    # Coarser than between frames, because generated pictures may drift a little.
    return max((_structural_change(pair, 2, 12) for pair in pairs), default=0.0)


def _detail(grey_HxW: np.ndarray) -> float:
    fine, middle, coarse = (
        cv2.GaussianBlur(grey_HxW.astype(np.float32), (0, 0), sigma) for sigma in (1, 2, 4)
    )
    return float(np.square(fine - middle).mean() / max(np.square(middle - coarse).mean(), 0.01))


def _between(small_FxHxW: np.ndarray, gaps_S: np.ndarray) -> tuple[float, float]:
    """Returns grain and carried, see `Meter.statistics`."""
    if len(small_FxHxW) < 3:
        return 0.0, 1.0
    grey_FxHxW = small_FxHxW.astype(np.float32)
    grain, carried = [], []
    midway_SxHxW = _midway(grey_FxHxW, gaps_S)
    for n, midway_HxW in enumerate(midway_SxHxW):
        departure_HxW = grey_FxHxW[n + 1] - midway_HxW
        fine_HxW = departure_HxW - cv2.blur(departure_HxW, (3, 3))
        grain.append(np.median(np.abs(fine_HxW)))
        difference_HxW = np.abs(grey_FxHxW[n + 2] - grey_FxHxW[n])
        # Moving pixels: the 2 % that differ most, if they differ by more than noise.
        moved_HxW = difference_HxW >= max(np.quantile(difference_HxW, 0.98), 8.0)
        if moved_HxW.sum() >= 20:
            squares = [
                np.square(image[moved_HxW]).sum() for image in (departure_HxW, difference_HxW)
            ]
            carried.append(squares[0] / squares[1])
    return float(np.median(grain)), float(np.median(carried)) if carried else 1.0
