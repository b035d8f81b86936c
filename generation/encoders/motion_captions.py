"""The rule-based captioner: captions of snippets from pixels alone, without weights.

It measures optical flow, differences from the background and brightness, and describes them in
English, in the "motion" vocabulary of the prompt banks (bank_phrases.py). It never sees a label, a
name or the description that a video was generated from.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from generation.media.reading import Picture

# Flow is computed at this width and about this rate, the motion encoder's, so that captions of all
# videos are comparable.
_WIDTH = 160
_FPS = 9.0
# Pictures are stretched to heights between these: OpenCV's flow needs the first, memory the last.
_HEIGHTS = (32, 320)
# A video is cut into equal parts of at most this many seconds, each with a background of its own:
# the median of this many frames. So that light may change, and memory is bounded.
_PART_SECONDS = 60.0
_BACKGROUND_FRAMES = 25
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
class _Step:
    """Measures of two successive working frames, about _FPS pairs per second.

    Attributes:
      velocity_RxCx2: mean flow of grid cells, minus the camera's motion.
      speed_RxC: mean length of that flow.
      flames: see _flames.
      light: mean grey level of the first frame.
      sway: speed of the camera.
      grey_HxW: the first frame, and
      moves_HxW: whether a pixel moves, until regions are counted; then empty.
      regions_3: see _regions.
    """

    velocity_RxCx2: np.ndarray
    speed_RxC: np.ndarray
    flames: float
    light: float
    sway: float
    grey_HxW: np.ndarray | None
    moves_HxW: np.ndarray | None
    regions_3: tuple[float, float, float] = (0.0, 0.0, 0.0)


class MotionCaptioner:
    """Describes the number, size, speed and direction of moving regions, and the light.

    The background of a place is the median of 25 frames of the video, or of each of its parts if it
    is longer than a minute.
    """

    id = "motion-rules-v2"
    vocabulary = "motion"

    def begin(self, spans_Tx2: np.ndarray, num_frames: int, rate: float) -> "CaptionStream":
        """Begins a video; see VisualEncoder.begin."""
        return CaptionStream(spans_Tx2, num_frames, rate)


class CaptionStream:
    """The captions of one video; see protocols.Stream.

    Args:
      spans_Tx2: [start, end) of each snippet in frames.
      num_frames: frames of the video.
      rate: frames per second.
    """

    def __init__(self, spans_Tx2: np.ndarray, num_frames: int, rate: float):
        step = max(1, round(rate / _FPS))
        first_S = np.arange(0, max(1, num_frames - step), step)
        last = min(first_S[-1] + step, num_frames - 1)
        self.wanted_F = np.unique(np.append(first_S, last))
        self._num_snippets = len(spans_Tx2)
        self._steps_Tx2 = _steps_of(spans_Tx2, first_S, step)
        # The first step that this snippet or a later one needs.
        self._first_T = np.minimum.accumulate(self._steps_Tx2[::-1, 0])[::-1]
        # The width in percent, times pairs a second.
        self._unit = np.float32(100.0 / _WIDTH * rate / step)
        num_parts = max(1, math.ceil(len(first_S) * step / rate / _PART_SECONDS))
        self._part_ends = np.linspace(0, len(first_S), num_parts + 1).round().astype(int)[1:]
        self._dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._steps: list[_Step] = []
        self._dropped = self._finished = self._part = self._given = 0

    def prepare(self, picture: "Picture") -> np.ndarray:
        """Returns the small picture, RGB."""
        height = round(picture.height * _WIDTH / picture.width)
        return picture.scaled(_WIDTH, int(np.clip(height, *_HEIGHTS)), "rgb24")

    def take(self, prepared: Sequence[np.ndarray]) -> list[str]:
        """Takes the next of the wanted frames; see protocols.Stream.take."""
        if len(self.wanted_F) < 2:
            return ["a single picture without any motion"] * self._num_snippets
        return [describe(facts) for facts in self.measure(prepared)]

    def measure(self, prepared: Sequence[np.ndarray]) -> list[Facts]:
        """Measures what `take` describes, of a video of at least two frames."""
        for image_HxWx3 in prepared:
            self._add(image_HxWx3)
        facts = []
        while self._given < self._num_snippets:
            start, end = self._steps_Tx2[self._given] - self._dropped
            if end + self._dropped > self._finished:
                break
            facts.append(_facts(self._steps[start:end]))
            self._given += 1
        if self._given < self._num_snippets:
            surplus = min(self._first_T[self._given], self._finished) - self._dropped
            del self._steps[:surplus]
            self._dropped += surplus
        return facts

    def _add(self, image_HxWx3: np.ndarray) -> None:
        """Takes a frame; the last one of a part settles the regions of all the part's steps."""
        # The blur removes most camera noise.
        grey_HxW = cv2.GaussianBlur(cv2.cvtColor(image_HxWx3, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
        if self._before is not None:
            self._steps.append(self._step(*self._before, image_HxWx3, grey_HxW))
        self._before = image_HxWx3, grey_HxW
        if self._part < len(self._part_ends):
            end = self._part_ends[self._part]
            if self._dropped + len(self._steps) == end:
                self._finish_part(self._steps[self._finished - self._dropped :])
                self._finished, self._part = end, self._part + 1

    def _step(
        self,
        before_HxWx3: np.ndarray,
        before_HxW: np.ndarray,
        after_HxWx3: np.ndarray,
        after_HxW: np.ndarray,
    ) -> _Step:
        flow_HxWx2 = self._dense.calc(before_HxW, after_HxW, None) * self._unit
        camera_2 = np.median(flow_HxWx2[::4, ::4].reshape(-1, 2), axis=0)
        flow_HxWx2 -= camera_2
        speed_HxW = cv2.magnitude(flow_HxWx2[..., 0], flow_HxWx2[..., 1])
        cells_RxCx3 = cv2.resize(
            np.dstack([flow_HxWx2, speed_HxW]), _CELLS[::-1], interpolation=cv2.INTER_AREA
        )
        return _Step(
            velocity_RxCx2=cells_RxCx3[..., :2],
            speed_RxC=cells_RxCx3[..., 2],
            flames=_flames(before_HxWx3, after_HxWx3),
            light=float(before_HxW.mean()),
            sway=float(np.hypot(*camera_2)),
            grey_HxW=before_HxW,
            moves_HxW=speed_HxW > 1.5,
        )

    @staticmethod
    def _finish_part(steps: Sequence[_Step]) -> None:
        """Counts the moving regions of a part's steps against the part's background."""
        chosen = np.unique(np.linspace(0, len(steps) - 1, _BACKGROUND_FRAMES).round().astype(int))
        background_HxW = np.median([steps[i].grey_HxW for i in chosen], axis=0).astype(np.int16)
        for step in steps:
            step.regions_3 = _regions(step.grey_HxW, background_HxW, step.moves_HxW)
            step.grey_HxW = step.moves_HxW = None


def _steps_of(spans_Tx2: np.ndarray, first_S: np.ndarray, step: int) -> np.ndarray:
    """Returns which steps each snippet is measured by, [start, end): int64 [T, 2].

    They are those inside the snippet, or the _MIN_STEPS nearest to its middle if those are fewer.
    """
    start_T, end_T = np.searchsorted(first_S, spans_Tx2 - np.array([0, 1])).T
    middles_T = spans_Tx2.sum(axis=1) / (2 * step)
    latest = max(0, len(first_S) - _MIN_STEPS)
    near_T = np.clip(np.ceil(middles_T - _MIN_STEPS / 2), 0, latest).astype(np.int64)
    few_T = end_T - start_T < _MIN_STEPS
    return np.stack(
        [
            np.where(few_T, near_T, start_T),
            np.where(few_T, np.minimum(near_T + _MIN_STEPS, len(first_S)), end_T),
        ],
        axis=1,
    )


def _regions(
    grey_HxW: np.ndarray, background_HxW: np.ndarray, moves_HxW: np.ndarray
) -> tuple[float, float, float]:
    """Returns the number of moving regions, and of the tallest: height share, width over height."""
    difference_HxW = grey_HxW - background_HxW
    difference_HxW = np.abs(difference_HxW - np.int16(np.median(difference_HxW[::3, ::3])))
    noise = 1.5 * float(np.median(difference_HxW[::3, ::3]))
    moving_HxW = (difference_HxW > max(14.0, 5 * noise)) & moves_HxW
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


def _facts(steps: Sequence[_Step]) -> Facts:
    velocity_SxRxCx2 = np.stack([step.velocity_RxCx2 for step in steps])
    speed_RxC = np.stack([step.speed_RxC for step in steps]).mean(axis=0)
    mean_RxCx2 = velocity_SxRxCx2.mean(axis=0)
    pace_SxRC = np.hypot(*np.moveaxis(velocity_SxRxCx2, -1, 0)).reshape(len(steps), -1)
    fastest_S = np.argmax(pace_SxRC, axis=1)
    velocity_Sx2 = velocity_SxRxCx2.reshape(len(steps), -1, 2)[np.arange(len(steps)), fastest_S]
    agitation_RxC = speed_RxC * _reversal(velocity_SxRxCx2)
    rows_RxC, columns_RxC = np.indices(_CELLS)
    centre = np.unravel_index(np.argmax(agitation_RxC), _CELLS)
    away_RxCx2 = np.dstack([columns_RxC - centre[1], rows_RxC - centre[0]]).astype(float)
    distance_RxC = np.hypot(away_RxCx2[..., 0], away_RxCx2[..., 1])
    near_RxC = (distance_RxC > 0) & (distance_RxC < 2.5)
    outward_RxC = (mean_RxCx2 * away_RxCx2).sum(axis=2) / np.maximum(distance_RxC, 1)
    regions_Sx3 = np.array([step.regions_3 for step in steps])
    tallest_3 = regions_Sx3[np.argsort(regions_Sx3[:, 1], kind="stable")[len(steps) // 2]]
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
        flames=max(step.flames for step in steps),
        flashes=_flashes(np.array([step.light for step in steps])),
        sway=float(np.median([step.sway for step in steps])),
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
