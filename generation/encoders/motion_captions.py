"""The rule-based captioner: captions of snippets from pixels alone, without weights.

It measures optical flow, differences from the background and brightness, and describes them in
English, in the "motion" vocabulary of the prompt banks (bank_phrases.py). It never sees a label, a
name or the description that a video was generated from.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

# Flow is computed at this width and about this rate, so that captions of all videos are comparable.
_WIDTH = 160
_FPS = 10.0
_CELLS = (8, 10)
# Shorter snippets borrow frames of their neighbours: motion to and fro takes time to see.
_MIN_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Facts:
    """Measures of one snippet; lengths are in percent of the width.

    Attributes:
      regions: number of separate moving regions, median over the snippet.
      height: height of the tallest region as a share of the picture's height.
      wide: whether the tallest region is wider than tall.
      speed: speed of the fastest cell per second, median over the snippet.
      direction_xy: mean velocity of the fastest cell, right and down.
      agitation: motion to and fro in the busiest cells, per second.
      spread: share of all motion to and fro that is far from its centre.
      outward: motion away from the busiest spot, per second; negative towards it.
      flames: largest share of pixels that are fire-coloured and changing.
      flashes: number of times that the whole picture lights up briefly.
      sway: motion of the whole picture, per second.
    """

    regions: float
    height: float
    wide: bool
    speed: float
    direction_xy: tuple[float, float]
    agitation: float
    spread: float
    outward: float
    flames: float
    flashes: int
    sway: float


@dataclasses.dataclass
class _Steps:
    """Measures of successive pairs of frames (steps), about _FPS per second."""

    first_S: np.ndarray  # index of each pair's first frame
    velocity_SxRxCx2: np.ndarray  # mean flow of grid cells, minus the camera's motion
    speed_SxRxC: np.ndarray  # mean length of the flow
    regions_Sx3: np.ndarray  # number of regions, and of the tallest: height, width over height
    flames_S: np.ndarray
    light_S: np.ndarray  # mean grey level of the first frame
    sway_S: np.ndarray


class MotionCaptioner:
    """Describes the number, size, speed and direction of moving regions, and the light."""

    id = "motion-rules-v1"
    whole_video = True
    vocabulary = "motion"

    def captions(self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float) -> list[str]:
        """Captions a video's snippets; the background is estimated from the whole video.

        Args:
          frames_FxHxWx3: RGB uint8.
          spans_Tx2: [start, end) of each snippet in frames.
          fps: frames per second.

        Returns:
          T sentences.
        """
        if len(frames_FxHxWx3) < 2:
            return ["a single picture without any motion"] * len(spans_Tx2)
        return [describe(facts) for facts in measure(frames_FxHxWx3, spans_Tx2, fps)]


def measure(frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float) -> list[Facts]:
    """Measures each snippet of at least two frames; see MotionCaptioner.captions."""
    steps = _steps(frames_FxHxWx3, fps)
    facts = []
    for start, end in spans_Tx2:
        inside = np.flatnonzero((steps.first_S >= start) & (steps.first_S < end - 1))
        if len(inside) < _MIN_STEPS:
            distance_S = np.abs(steps.first_S - (start + end) / 2)
            inside = np.sort(np.argsort(distance_S, kind="stable")[:_MIN_STEPS])
        facts.append(_facts(steps, inside))
    return facts


def _steps(frames_FxHxWx3: np.ndarray, fps: float) -> _Steps:
    step = max(1, round(fps / _FPS))
    first_S = np.arange(0, max(1, len(frames_FxHxWx3) - step), step)
    second_S = np.minimum(first_S + step, len(frames_FxHxWx3) - 1)
    scale = _WIDTH / frames_FxHxWx3.shape[2]
    size = (_WIDTH, max(32, round(frames_FxHxWx3.shape[1] * scale)))
    unit = 100.0 / _WIDTH * fps / step
    background_HxW = _background(frames_FxHxWx3, size)
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    cells, regions, flames, light, sway = [], [], [], [], []
    before = _prepared(frames_FxHxWx3[0], size)
    for second in second_S:
        after = _prepared(frames_FxHxWx3[second], size)
        flow_HxWx2 = dense.calc(before[1], after[1], None) * unit
        camera_2 = np.median(flow_HxWx2[::4, ::4].reshape(-1, 2), axis=0)
        flow_HxWx2 -= camera_2
        speed_HxW = cv2.magnitude(flow_HxWx2[..., 0], flow_HxWx2[..., 1])
        stacked = np.dstack([flow_HxWx2, speed_HxW])
        cells.append(cv2.resize(stacked, _CELLS[::-1], interpolation=cv2.INTER_AREA))
        regions.append(_regions(before[1], background_HxW, speed_HxW))
        flames.append(_flames(before[0], after[0]))
        light.append(before[1].mean())
        sway.append(np.hypot(*camera_2))
        before = after
    cells_SxRxCx3 = np.stack(cells)
    return _Steps(
        first_S,
        cells_SxRxCx3[..., :2],
        cells_SxRxCx3[..., 2],
        np.array(regions),
        np.array(flames),
        np.array(light),
        np.array(sway),
    )


def _prepared(frame_HxWx3: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (RGB, blurred grey) at the working size; the blur removes most camera noise."""
    if frame_HxWx3.shape[1::-1] != size:
        frame_HxWx3 = cv2.resize(frame_HxWx3, size, interpolation=cv2.INTER_AREA)
    grey_HxW = cv2.cvtColor(frame_HxWx3, cv2.COLOR_RGB2GRAY)
    return frame_HxWx3, cv2.GaussianBlur(grey_HxW, (0, 0), 1.0)


def _background(frames_FxHxWx3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    chosen = np.unique(np.linspace(0, len(frames_FxHxWx3) - 1, 25).round().astype(int))
    grey = np.stack([_prepared(frames_FxHxWx3[i], size)[1] for i in chosen])
    return np.median(grey, axis=0).astype(np.int16)


def _regions(
    grey_HxW: np.ndarray, background_HxW: np.ndarray, speed_HxW: np.ndarray
) -> tuple[float, float, float]:
    """Returns the number of moving regions, and of the tallest: height share, width over height."""
    difference_HxW = grey_HxW - background_HxW
    difference_HxW = np.abs(difference_HxW - np.int16(np.median(difference_HxW[::3, ::3])))
    noise = 1.5 * float(np.median(difference_HxW[::3, ::3]))
    moving_HxW = (difference_HxW > max(14.0, 5 * noise)) & (speed_HxW > 1.5)
    mask_HxW = cv2.morphologyEx(moving_HxW.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 3)))
    statistics_Kx5 = cv2.connectedComponentsWithStats(mask_HxW)[2][1:]
    large_Kx5 = statistics_Kx5[statistics_Kx5[:, cv2.CC_STAT_AREA] >= 0.0015 * mask_HxW.size]
    if not len(large_Kx5):
        return 0.0, 0.0, 0.0
    tallest = large_Kx5[np.argmax(large_Kx5[:, cv2.CC_STAT_HEIGHT])]
    width, height = tallest[cv2.CC_STAT_WIDTH], tallest[cv2.CC_STAT_HEIGHT]
    return float(len(large_Kx5)), height / mask_HxW.shape[0], width / height


def _flames(before_HxWx3: np.ndarray, after_HxWx3: np.ndarray) -> float:
    """Returns the share of pixels that visibly become or stop being fire-coloured."""

    def channels(image_HxWx3):
        return (image_HxWx3[::2, ::2, i].astype(np.int16) for i in range(3))

    def fire_coloured(red, green, blue):
        # The condition on green excludes plain red, such as a car.
        return (red > 150) & (red - blue > 60) & (red > green) & (green > 80)

    before, after = tuple(channels(before_HxWx3)), tuple(channels(after_HxWx3))
    visibly_HxW = sum(np.abs(a - b) for a, b in zip(before, after, strict=True)) > 60
    return float(((fire_coloured(*before) ^ fire_coloured(*after)) & visibly_HxW).mean())


def _facts(steps: _Steps, inside: np.ndarray) -> Facts:
    velocity_SxRxCx2 = steps.velocity_SxRxCx2[inside]
    speed_RxC = steps.speed_SxRxC[inside].mean(axis=0)
    mean_RxCx2 = velocity_SxRxCx2.mean(axis=0)
    pace_SxRC = np.hypot(*np.moveaxis(velocity_SxRxCx2, -1, 0)).reshape(len(inside), -1)
    fastest_S = np.argmax(pace_SxRC, axis=1)
    velocity_Sx2 = velocity_SxRxCx2.reshape(len(inside), -1, 2)[np.arange(len(inside)), fastest_S]
    agitation_RxC = speed_RxC * _reversal(velocity_SxRxCx2)
    rows_RxC, columns_RxC = np.indices(_CELLS)
    centre = np.unravel_index(np.argmax(agitation_RxC), _CELLS)
    away_RxCx2 = np.dstack([columns_RxC - centre[1], rows_RxC - centre[0]]).astype(float)
    distance_RxC = np.hypot(away_RxCx2[..., 0], away_RxCx2[..., 1])
    near_RxC = (distance_RxC > 0) & (distance_RxC < 2.5)
    outward_RxC = (mean_RxCx2 * away_RxCx2).sum(axis=2) / np.maximum(distance_RxC, 1)
    regions_Sx3 = steps.regions_Sx3[inside]
    tallest_3 = regions_Sx3[np.argsort(regions_Sx3[:, 1], kind="stable")[len(inside) // 2]]
    total = max(float(agitation_RxC.sum()), 1e-6)
    return Facts(
        regions=float(np.median(regions_Sx3[:, 0])),
        height=float(tallest_3[1]),
        wide=bool(tallest_3[2] > 1.2),
        speed=float(np.median(pace_SxRC.max(axis=1))),
        direction_xy=tuple(velocity_Sx2.mean(axis=0).tolist()),
        agitation=float(np.sort(agitation_RxC, axis=None)[-3:].mean()),
        spread=float(agitation_RxC[distance_RxC >= 2.5].sum()) / total,
        outward=float(outward_RxC[near_RxC].mean()),
        flames=float(steps.flames_S[inside].max()),
        flashes=_flashes(steps.light_S[inside]),
        sway=float(np.median(steps.sway_S[inside])),
    )


def _reversal(velocity_SxRxCx2: np.ndarray) -> np.ndarray:
    """Returns the share of each cell's motion that reverses within two steps; 0 is steady."""
    lag = min(2, len(velocity_SxRxCx2) - 1)
    if lag < 1:
        return np.zeros(velocity_SxRxCx2.shape[1:3])
    turned_SxRxC = (velocity_SxRxCx2[lag:] * velocity_SxRxCx2[:-lag]).sum(axis=-1)
    backwards_RxC = np.maximum(-turned_SxRxC, 0).sum(axis=0)
    return backwards_RxC / np.maximum(np.abs(turned_SxRxC).sum(axis=0), 1e-6)


def _flashes(light_S: np.ndarray) -> int:
    """Counts steps that are brighter than both neighbours by more than 6 grey levels."""
    if len(light_S) < 3:
        return 0
    return int((np.minimum(light_S[1:-1] - light_S[:-2], light_S[1:-1] - light_S[2:]) > 6).sum())


# Bounds are factors of two, because pace and restlessness are perceived in ratios.
_PACES = (
    (2.0, "barely"),
    (4.0, "very slowly"),
    (8.0, "slowly"),
    (16.0, "at a steady pace"),
    (32.0, "fast"),
    (np.inf, "very fast"),
)
_COUNTS = (
    (0.5, "no"),
    (1.5, "one"),
    (2.5, "two"),
    (3.5, "three"),
    (6.5, "several"),
    (np.inf, "a crowd of"),
)
_AGITATION = (
    (1.25, "calm and even"),
    (2.5, "mostly calm"),
    (5.0, "somewhat restless"),
    (10.0, "erratic motion to and fro"),
    (np.inf, "violent erratic motion to and fro"),
)
_SPREADS = (
    (0.35, "close together in one spot"),
    (0.6, "in part of the scene"),
    (np.inf, "all over the scene"),
)
_ERRATIC = 5.0


def _word(value: float, scale: Sequence[tuple[float, str]]) -> str:
    return next(word for bound, word in scale if value < bound)


def describe(facts: Facts) -> str:
    """Describes the measures in the words that the prompt bank uses for the same sights."""
    clauses = [f"{_subject(facts)} {_motion(facts)}".strip()]
    agitation = _word(facts.agitation, _AGITATION)
    if facts.agitation >= _ERRATIC:
        agitation += f" {_word(facts.spread, _SPREADS)}"
        if facts.outward > 3.0:
            agitation += ", scattering outwards"
    clauses.append(agitation)
    if facts.flames > 0.006:
        clauses.append("bright orange flames flickering")
    if facts.flashes:
        # A gun or a blast lights up the picture a few times, a broken lamp all the time.
        clauses.append("a sudden bright flash" if facts.flashes < 4 else "a lamp switching")
    if facts.sway > 3.0:
        clauses.append("the camera itself is swaying")
    return ", ".join(clauses)


def _subject(facts: Facts) -> str:
    count = _word(facts.regions, _COUNTS)
    if count == "no":
        return "no region"
    size = _word(facts.height, ((0.12, "small"), (0.5, "people-sized"), (np.inf, "large")))
    shape = "vehicle-shaped " if facts.wide and size != "small" else ""
    return f"{count} {size} {shape}region{'' if count == 'one' else 's'}"


def _motion(facts: Facts) -> str:
    pace = _word(facts.speed, _PACES)
    if pace == "barely":
        return "barely moving"
    right, down = facts.direction_xy
    if np.hypot(right, down) < 0.5 * facts.speed:
        return f"moving {pace} in different directions"
    if abs(right) >= abs(down):
        return f"moving {pace} to the {'right' if right > 0 else 'left'}"
    return f"moving {pace} {'towards' if down > 0 else 'away from'} the camera"
