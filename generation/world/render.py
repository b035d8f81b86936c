"""The built-in world: renders a description as a surveillance-like video, without any weights.

Two domains. `footage` stands for real cameras: long clips with noise, jitter, lamps, rain, crowds
and traffic, in which an event takes part of the time. `generated` stands for a text-to-video
model: short clips about the event, smooth, warping and flickering, and some of them broken.
`domain_gap` says how far its look and pace lie from footage. A video is a pure function of its
description and options. tools/check_world.py shows that the problem is a fair one.
"""

import dataclasses

import cv2
import numpy as np

from generation.prompts.descriptions import Description
from generation.world import events
from generation.world.scenes import Stage, hurriers, make_stage, stream, traffic, walkers

# Raise with every change of what is rendered: results of different versions can't be compared.
WORLD_VERSION = 1
DOMAINS = ("footage", "generated")
DEFECTS = ("frozen", "cut", "black", "static", "twin")
DEFECT_SHARE = 0.25
SIZES = {"footage": (120, 160), "generated": (112, 168)}
FPS = {"footage": 10.0, "generated": 8.0}
GENERATED_FRAMES = 49
CRF = {"footage": 27, "generated": 20}


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A rendered video and the truth about it.

    Attributes:
      frames_TxHxWx3: RGB uint8.
      fps: frames per second.
      abnormal_frames: [start, end) of what is really to be seen, empty when nothing abnormal is.
      defect: one of DEFECTS, or None.
    """

    frames_TxHxWx3: np.ndarray
    fps: float
    abnormal_frames: list[tuple[int, int]]
    defect: str | None


def draw_defect(description: Description, seed: int, share: float = DEFECT_SHARE) -> str | None:
    """Which defect a generated clip gets; each with the same chance, together `share`."""
    rng = stream(seed, "defect", description.id)
    return str(rng.choice(DEFECTS)) if rng.random() < share else None


def render(
    description: Description,
    *,
    domain: str,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    num_frames: int | None = None,
    domain_gap: float = 1.0,
    defect: str | None = None,
    seed: int = 0,
) -> Rendering:
    """Renders a description.

    Args:
      description: viewpoint and location choose the place, class and subject the act.
      domain: footage or generated.
      size: (height, width), even; the domain's unless told.
      fps: frames per second; the domain's unless told.
      num_frames: 12 to 24 s of footage unless told, or 49 generated frames.
      domain_gap: of `generated`, 0 looks like footage; larger is further.
      defect: one of DEFECTS, or None for a sound clip.
      seed: of the whole set, beside the description's own.

    Returns:
      The video and the truth.

    Raises:
      ValueError: unknown domain or defect, negative gap.
    """
    _check_options(domain, defect, domain_gap)
    gap = domain_gap if domain == "generated" else 0.0
    size, fps = size or SIZES[domain], fps or FPS[domain]
    place_seed = int(stream(seed, "place", domain, description.seed).integers(2**31))
    label = 1 - description.label if defect == "twin" else description.label
    # Twins have the same place and length but lives of their own.
    life_seed = int(stream(seed, "life", domain, description.seed, label).integers(2**31))
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
    frames = _live(stage, description, life_seed, intervals, domain, gap)
    look = _footage_look if gap == 0 else _generated_look
    frames = look(stage, frames, place_seed, life_seed, gap)
    if defect == "cut":
        scene = {"domain": domain, "size": size, "fps": fps, "num_frames": num_frames}
        other = render(description, **scene, domain_gap=domain_gap, seed=seed + 1)
        intervals = _splice(frames, intervals, other, life_seed)
    elif defect in ("frozen", "black", "static"):
        intervals = _still(frames, intervals, defect, life_seed)
    return Rendering(frames, fps, intervals, defect)


def _check_options(domain, defect, domain_gap) -> None:
    if domain not in DOMAINS or defect not in (None, *DEFECTS) or domain_gap < 0:
        raise ValueError(
            f"expected a domain of {DOMAINS}, a defect of {DEFECTS} and a gap of 0 or more, "
            f"found {domain!r}, {defect!r}, {domain_gap!r}"
        )


def _intervals(rng, num_frames: int, domain: str) -> list[tuple[int, int]]:
    """20-50 % of footage, somewhere inside; nearly the whole of a generated clip."""
    if domain == "generated":
        start = round(rng.uniform(0, 0.15) * num_frames)
        return [(start, num_frames)]
    length = round(rng.uniform(0.2, 0.5) * num_frames)
    start = round(rng.uniform(0.1, 0.9 - length / num_frames) * num_frames)
    return [(start, start + length)]


def _live(stage, description, seed, intervals, domain, gap) -> np.ndarray:
    """Everything that lives and moves, before any camera sees it."""
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
        seen = [figure for figure in figures if figure.visible_T[t]]
        for figure in sorted(seen, key=lambda figure: figure.depth_T[t]):
            figure.draw(canvas, t)
        for vapour in act.vapours:
            vapour.draw(canvas, t)
        if act.flash_T[t]:
            cv2.add(canvas, (act.flash_T[t],) * 3, dst=canvas)
    return frames


def _bursts(rng, seconds_T, count: int, shortest: float, longest: float) -> np.ndarray:
    """0 to 1: on for a few spans of time, whatever else happens."""
    on_T = np.zeros(len(seconds_T))
    for _ in range(count):
        start = rng.uniform(-longest, seconds_T[-1])
        on_T[(seconds_T >= start) & (seconds_T < start + rng.uniform(shortest, longest))] = 1
    return on_T


def _footage_look(stage: Stage, frames, place_seed, life_seed, gap) -> np.ndarray:
    """A camera: light that drifts and flickers, shaking, blur, rain, noise and a clock."""
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


def _glow(rng, stage: Stage, reach: float) -> np.ndarray:
    """A soft spot of light in 0 to 1."""
    rows, columns = np.mgrid[: stage.height, : stage.width]
    x, y = rng.uniform(0, stage.width), rng.uniform(0, stage.height)
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (reach * stage.width) ** 2)


def _shake(rng, stage: Stage) -> np.ndarray:
    """A trembling mount and, now and then, wind that sways the whole picture."""
    seconds_T = stage.seconds_T
    wind_T = _bursts(rng, seconds_T, rng.integers(0, 4), 1.0, 3.0)
    shake_Tx2 = rng.normal(0, 0.12, (len(seconds_T), 2))
    for axis in range(2):
        sway_T = np.sin(2 * np.pi * rng.uniform(0.8, 1.8) * seconds_T + rng.uniform(0, 6))
        shake_Tx2[:, axis] += rng.uniform(1.0, 2.5) * wind_T * sway_T
    return shake_Tx2 * stage.unit


def _grain(rng, size, strength) -> np.ndarray:
    height, width = size
    grey = rng.standard_normal((8, height, width, 1), np.float32)
    colour = rng.standard_normal((8, height, width, 3), np.float32)
    return strength * (0.8 * grey + 0.4 * colour)


def _rain(rng, image) -> None:
    height, width = image.shape[:2]
    for x, y in rng.integers(0, (width, height), (25, 2)).tolist():
        cv2.line(image, (x, y), (x - 1, y + height // 20), (205, 205, 210), 1)


def _stamp(frame, clock: int) -> None:
    text = f"CAM 03  {clock // 3600 % 24:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
    scale = frame.shape[0] / 420
    place = (3, int(frame.shape[0] * 0.97))
    cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1)


def _generated_look(stage: Stage, frames, place_seed, life_seed, gap) -> np.ndarray:
    """A text-to-video model: painted surfaces, strong colours, all of it warping and flickering."""
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


def _until(intervals, end):
    return [(start, min(stop, end)) for start, stop in intervals if start < end]


def _splice(frames, intervals, other: Rendering, seed) -> list[tuple[int, int]]:
    """Cuts to another place in the middle of a clip."""
    cut = _middle(seed, len(frames))
    frames[cut:] = other.frames_TxHxWx3[cut:]
    later = [(max(start, cut), end) for start, end in other.abnormal_frames if end > cut]
    return _until(intervals, cut) + later


def _still(frames, intervals, defect, seed) -> list[tuple[int, int]]:
    """Stops a clip in place; what is no longer to be seen leaves its intervals."""
    if defect == "frozen":
        middle = _middle(seed, len(frames))
        frames[middle:] = frames[middle]
        return _until(intervals, middle)
    if defect == "black":
        frames[:] = 0
        return []
    # A model's still life: nothing moves, but no two frames are quite the same.
    light_T = stream(seed, "still").normal(1, 0.008, len(frames))
    frames[:] = np.clip(frames[0] * light_T[:, None, None, None], 0, 255)
    return []
