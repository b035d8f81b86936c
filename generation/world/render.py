"""Render a description as a surveillance-like video, without any weights.

There are two domains. `footage` stands in for real cameras: long videos with noise, jitter, lamps,
rain, crowds and traffic, in which an event takes part of the time. `generated` stands in for a
text-to-video model: short videos about the event, smooth, warping and flickering, some of them
broken. `domain_gap` says how far its look and pace are from footage. A video is a pure function of
its description and options. tools/check_world.py shows that the task is fair.
"""

import dataclasses

import cv2
import numpy as np

from generation.prompts.descriptions import Description
from generation.world import events
from generation.world.crowds import hurriers, traffic, walkers
from generation.world.scenes import Stage, make_stage, stream

# Raise it with every change of the pixels: results of different versions cannot be compared.
WORLD_VERSION = 1
DOMAINS = ("footage", "generated")
DEFECTS = ("frozen", "cut", "black", "static", "twin")
DEFECT_SHARE = 0.25
SIZES = {"footage": (120, 160), "generated": (112, 168)}
FPS = {"footage": 10.0, "generated": 8.0}
GENERATED_FRAMES = 49
CRF = {"footage": 27, "generated": 20}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """How to render descriptions.

    Attributes:
      domain: footage or generated.
      seed: seed of the whole set, beside each description's own.
      domain_gap: distance of `generated` from footage; 0 looks like footage.
      num_frames: None for 12 to 24 s of footage, or for GENERATED_FRAMES.
      fps: frames per second; None for the domain's own.
      size: (height, width), even; None for the domain's own.

    Raises:
      ValueError: the domain is unknown or the gap negative.
    """

    domain: str = "generated"
    seed: int = 0
    domain_gap: float = 1.0
    num_frames: int | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self):
        if self.domain not in DOMAINS or self.domain_gap < 0:
            raise ValueError(
                f"expected a domain of {DOMAINS} and a domain gap of 0 or more, found "
                f"{self.domain!r} and {self.domain_gap!r}"
            )


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A rendered video and the truth about it.

    Attributes:
      frames_TxHxWx3: RGB uint8.
      fps: frames per second.
      abnormal_frames: [start, end) of the frames that really show the event; [] if none does.
      defect: one of DEFECTS, or None.
    """

    frames_TxHxWx3: np.ndarray
    fps: float
    abnormal_frames: list[tuple[int, int]]
    defect: str | None


def draw_defect(description: Description, seed: int, share: float = DEFECT_SHARE) -> str | None:
    """Draws a generated video's defect: each with the same chance, `share` in total."""
    rng = stream(seed, "defect", description.id)
    return str(rng.choice(DEFECTS)) if rng.random() < share else None


def render(description: Description, options: WorldOptions, defect: str | None = None) -> Rendering:
    """Renders a description.

    Args:
      description: viewpoint and location determine the place, class and subject the action.
      options: domain, seed, and size.
      defect: one of DEFECTS, or None for an intact video.

    Returns:
      The video and the truth about it.

    Raises:
      ValueError: the defect is unknown.
    """
    if defect not in (None, *DEFECTS):
        raise ValueError(f"expected a defect of {DEFECTS}, found {defect!r}")
    domain, seed = options.domain, options.seed
    gap = options.domain_gap if domain == "generated" else 0.0
    size, fps = options.size or SIZES[domain], options.fps or FPS[domain]
    place_seed = int(stream(seed, "place", domain, description.seed).integers(2**31))
    label = 1 - description.label if defect == "twin" else description.label
    # Twins share the place and the length; what moves there differs.
    life_seed = int(stream(seed, "life", domain, description.seed, label).integers(2**31))
    num_frames = options.num_frames
    if num_frames is None:
        seconds = stream(place_seed, "length").uniform(12, 24)
        num_frames = round(seconds * fps) if domain == "footage" else GENERATED_FRAMES
    intervals = _intervals(stream(life_seed, "when"), num_frames, domain) if label else []
    pace = 1 / (1 + 0.35 * gap)
    stage = make_stage(
        description.viewpoint,
        description.location,
        place_seed,
        size,
        np.arange(num_frames) / fps * pace,
        zoom=1 + 0.25 * min(gap, 2),
    )
    frames = _draw(stage, description, life_seed, intervals, domain, gap)
    if gap == 0:
        frames = _film(stage, frames, place_seed, life_seed)
    else:
        frames = _stylise(stage, frames, place_seed, life_seed, gap)
    if defect == "cut":
        other_place = dataclasses.replace(options, num_frames=num_frames, seed=seed + 1)
        intervals = _splice(frames, intervals, render(description, other_place), life_seed)
    elif defect in ("frozen", "black", "static"):
        intervals = _still(frames, intervals, defect, life_seed)
    return Rendering(frames, fps, intervals, defect)


def _intervals(rng: np.random.Generator, num_frames: int, domain: str) -> list[tuple[int, int]]:
    """Draws the event's frames: 20-50 % of footage, nearly all of a generated video."""
    if domain == "generated":
        start = round(rng.uniform(0, 0.15) * num_frames)
        return [(start, num_frames)]
    length = round(rng.uniform(0.2, 0.5) * num_frames)
    start = round(rng.uniform(0.1, 0.9 - length / num_frames) * num_frames)
    return [(start, start + length)]


def _draw(
    stage: Stage,
    description: Description,
    seed: int,
    intervals: list[tuple[int, int]],
    domain: str,
    gap: float,
) -> np.ndarray:
    """Draws the place and all that moves in it, before the camera or model changes the look."""
    rng = stream(seed, "others")
    busy = 1.0 if domain == "footage" else 0.4
    figures = walkers(stage, rng, rng.integers(3, 9))
    figures += hurriers(stage, rng, rng.binomial(3, 0.6 * busy))
    vehicles = {"road": 4, "yard": 3, "indoor": 2}[stage.setting]
    figures += traffic(stage, rng, rng.binomial(vehicles, 0.7 * busy))
    subject = (description.cls, description.subject)
    act_rng = stream(seed, "act")
    if intervals:
        strength = 1 / (1 + 0.15 * gap)
        act = events.event(stage, act_rng, *subject, intervals, strength)
    else:
        act = events.calm(stage, act_rng, *subject)
    figures += act.figures
    frames = np.empty((len(stage.seconds_T), *stage.background_HxWx3.shape), np.uint8)
    for t, canvas in enumerate(frames):
        canvas[:] = stage.background_HxWx3
        visible = [figure for figure in figures if figure.visible_T[t]]
        for figure in sorted(visible, key=lambda figure: figure.depth_T[t]):
            figure.draw(canvas, t)
        for vapour in act.vapours:
            vapour.draw(canvas, t)
        if act.flash_T[t]:
            cv2.add(canvas, (act.flash_T[t],) * 3, dst=canvas)
    return frames


def _bursts(
    rng: np.random.Generator, seconds_T: np.ndarray, count: int, shortest: float, longest: float
) -> np.ndarray:
    """Returns 1 during a few random spans of time and 0 elsewhere."""
    on_T = np.zeros(len(seconds_T))
    for _ in range(count):
        start = rng.uniform(-longest, seconds_T[-1])
        on_T[(seconds_T >= start) & (seconds_T < start + rng.uniform(shortest, longest))] = 1
    return on_T


def _film(stage: Stage, frames: np.ndarray, place_seed: int, life_seed: int) -> np.ndarray:
    """Applies a camera's look: drifting light, flicker, shaking, blur, rain, noise, a clock."""
    place, life = stream(place_seed, "camera"), stream(life_seed, "camera")
    seconds_T = stage.seconds_T
    height, width = stage.height, stage.width
    drift_T = place.uniform(0.75, 1.2) + 0.1 * np.sin(
        seconds_T * life.uniform(0.15, 0.5) + life.uniform(0, 6)
    )
    lamp_T = _bursts(life, seconds_T, life.integers(0, 4), 1.5, 5) * life.choice(
        [0, 38], len(seconds_T)
    )
    lamp_HxW = _glow(place, stage, 0.35)
    sweep_T = _bursts(life, seconds_T, life.integers(0, 3), 1.0, 2.5)
    shake_Tx2 = _shake(life, stage)
    blur_T = _bursts(life, seconds_T, life.integers(0, 3), 1.5, 4) * life.uniform(0.6, 1.3)
    tint = place.uniform(0.92, 1.08, 3)
    grain = _grain(life, (height, width), place.uniform(2.5, 6.0))
    rainy = stage.setting != "indoor" and place.random() < 0.2
    clock = int((20 if stage.night else 8) * 3600 + place.integers(8 * 3600))
    for t, frame in enumerate(frames):
        if shake_Tx2[t].any():
            shift = np.float32([[1, 0, shake_Tx2[t, 0]], [0, 1, shake_Tx2[t, 1]]])
            frame[:] = cv2.warpAffine(
                frame, shift, (width, height), borderMode=cv2.BORDER_REPLICATE
            )
        light_HxW = np.float32(drift_T[t])
        image = frame * (light_HxW * tint).astype(np.float32)
        if lamp_T[t]:
            image += (lamp_T[t] * lamp_HxW)[..., None].astype(np.float32)
        if sweep_T[t]:
            centre = (seconds_T[t] * 0.7 % 1.4 - 0.2) * width
            band_W = 45 * np.exp(-(((np.arange(width) - centre) / (0.12 * width)) ** 2))
            image += band_W[None, :, None].astype(np.float32)
        if rainy:
            _rain(life, image)
        if blur_T[t]:
            image = cv2.GaussianBlur(image, (0, 0), blur_T[t])
        image += np.roll(grain[t % len(grain)], int(life.integers(height * width)), axis=0)
        np.clip(image, 0, 255, out=image)
        frame[:] = image
        _stamp(frame, clock + int(seconds_T[t]))
    return frames


def _glow(rng: np.random.Generator, stage: Stage, reach: float) -> np.ndarray:
    """Returns a soft spot of light, 0 to 1."""
    rows, columns = np.mgrid[: stage.height, : stage.width]
    x, y = rng.uniform(0, stage.width), rng.uniform(0, stage.height)
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (reach * stage.width) ** 2)


def _shake(rng: np.random.Generator, stage: Stage) -> np.ndarray:
    """Returns the shift of each frame: a trembling mount and, at times, wind."""
    seconds_T = stage.seconds_T
    wind_T = _bursts(rng, seconds_T, rng.integers(0, 4), 1.0, 3.0)
    shake_Tx2 = rng.normal(0, 0.12, (len(seconds_T), 2))
    for axis in range(2):
        sway_T = np.sin(2 * np.pi * rng.uniform(0.8, 1.8) * seconds_T + rng.uniform(0, 6))
        shake_Tx2[:, axis] += rng.uniform(1.0, 2.5) * wind_T * sway_T
    return shake_Tx2 * stage.unit


def _grain(rng: np.random.Generator, size: tuple[int, int], strength: float) -> np.ndarray:
    """Returns eight frames of sensor noise."""
    height, width = size
    grey = rng.standard_normal((8, height, width, 1), np.float32)
    colour = rng.standard_normal((8, height, width, 3), np.float32)
    return strength * (0.8 * grey + 0.4 * colour)


def _rain(rng: np.random.Generator, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    for x, y in rng.integers(0, (width, height), (25, 2)).tolist():
        cv2.line(image, (x, y), (x - 1, y + height // 20), (205, 205, 210), 1)


def _stamp(frame: np.ndarray, clock: int) -> None:
    """Writes the camera's name and the time of day, in seconds, into a frame."""
    text = f"CAM 03  {clock // 3600 % 24:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
    scale = frame.shape[0] / 420
    place = (3, int(frame.shape[0] * 0.97))
    cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1)


def _stylise(
    stage: Stage, frames: np.ndarray, place_seed: int, life_seed: int, gap: float
) -> np.ndarray:
    """Applies a text-to-video model's look: smooth, colourful, warping and flickering."""
    place, life = stream(place_seed, "model"), stream(life_seed, "model")
    height, width = stage.height, stage.width
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    across, down = (place.uniform(1.5, 3.0, 2) * 2 * np.pi / width).astype(np.float32)
    bend = np.float32(0.9 * gap**2 * stage.unit)
    paint, colour = min(gap, 1.0), 1 + 0.4 * min(gap, 2.0)
    flicker_T = 1 + 0.02 * gap * life.standard_normal(len(frames))
    exposure = place.uniform(0.8, 1.2)
    for t, frame in enumerate(frames):
        seconds = np.float32(stage.seconds_T[t])
        frame[:] = cv2.remap(
            frame,
            columns + bend * np.sin(across * rows + 3 * seconds),
            rows + bend * np.sin(down * columns + np.float32(2.3) * seconds),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        smooth = cv2.medianBlur(frame, 3 if gap < 1.5 else 5)
        image = cv2.addWeighted(smooth, paint, frame, 1 - paint, 0).astype(np.float32)
        grey = image.mean(axis=2, keepdims=True)
        image = (grey + colour * (image - grey) - 110) * (1 + 0.15 * paint) + 110
        image *= np.float32(exposure * flicker_T[t])
        frame[:] = np.clip(image, 0, 255)
    return frames


def _middle(seed: int, num_frames: int) -> int:
    return round(stream(seed, "break").uniform(0.3, 0.6) * num_frames)


def _until(intervals: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    return [(start, min(stop, end)) for start, stop in intervals if start < end]


def _splice(
    frames: np.ndarray, intervals: list[tuple[int, int]], other: Rendering, seed: int
) -> list[tuple[int, int]]:
    """Cuts to another rendering in the middle of a video; returns the event's frames."""
    cut = _middle(seed, len(frames))
    frames[cut:] = other.frames_TxHxWx3[cut:]
    later = [(max(start, cut), end) for start, end in other.abnormal_frames if end > cut]
    return _until(intervals, cut) + later


def _still(
    frames: np.ndarray, intervals: list[tuple[int, int]], defect: str, seed: int
) -> list[tuple[int, int]]:
    """Stops the motion of a video; returns the frames that still show the event."""
    if defect == "frozen":
        middle = _middle(seed, len(frames))
        frames[middle:] = frames[middle]
        return _until(intervals, middle)
    if defect == "black":
        frames[:] = 0
        return []
    # Static: nothing moves, but the brightness flickers, so no two frames are equal.
    light_T = stream(seed, "still").normal(1, 0.008, len(frames))
    frames[:] = np.clip(frames[0] * light_T[:, None, None, None], 0, 255)
    return []
