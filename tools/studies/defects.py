"""Defects to plant into sound videos, each in several severities, to test the filter with.

A defect is a pure function of the sound frames, a strength and random numbers. The built-in world
has defects of its own (a video of its twin's event); see generation/world.

The kinds in HELD_OUT took no part in choosing the filter's measures and bounds. How the filter does
on them estimates how it does on a defect that nobody thought of.
"""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

SEVERITIES = ("mild", "plain", "gross")
HELD_OUT = ("stutter", "melt")
# RGB [T, H, W, 3]: uint8 of sound videos, floats of broken ones before rounding.
Frames = np.ndarray
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Defect:
    """One kind of defect.

    Attributes:
      plant: (frames_TxHxWx3, strength, rng, other_TxHxWx3) -> frames; `other` shows another
        place.
      strengths: strength at each of SEVERITIES.
      meaning: unit of the strength.
    """

    plant: Callable[[Frames, float, Rng, Frames], Frames]
    strengths: tuple[float, float, float]
    meaning: str


def plant(
    kind: str, severity: str, frames_TxHxWx3: np.ndarray, other_TxHxWx3: np.ndarray, seed: int
) -> np.ndarray:
    """Plants a defect into a sound video.

    Args:
      kind: one of DEFECTS.
      severity: one of SEVERITIES.
      frames_TxHxWx3: RGB uint8.
      other_TxHxWx3: as many frames of another place, for cuts.
      seed: random seed.

    Returns:
      The broken frames, RGB uint8 of the same shape.
    """
    defect = DEFECTS[kind]
    strength = defect.strengths[SEVERITIES.index(severity)]
    rng = np.random.default_rng([seed, *kind.encode()])
    broken = defect.plant(frames_TxHxWx3, strength, rng, other_TxHxWx3)
    return np.clip(np.rint(broken), 0, 255).astype(np.uint8)


def _span(num_frames: int, share: float, rng: Rng) -> slice:
    """A random span of frames without the first one."""
    length = min(max(1, round(share * num_frames)), num_frames - 1)
    start = int(rng.integers(1, num_frames - length + 1))
    return slice(start, start + length)


def _frozen(frames: Frames, share: float, rng: Rng, other: Frames) -> Frames:
    out = frames.copy()
    still = _span(len(frames), share, rng)
    out[still] = frames[still.start]
    return out


def _cut(frames: Frames, cuts: float, rng: Rng, other: Frames) -> Frames:
    """Half a cut is a dissolve over half a second."""
    middle = round(rng.uniform(0.3, 0.6) * len(frames))
    if cuts < 1:
        blend_T = np.clip((np.arange(len(frames)) - middle + 2.5) / 4, 0, 1)[:, None, None, None]
        return frames * (1 - blend_T) + other * blend_T
    out, step = frames.copy(), len(frames) // 6
    out[middle:] = other[middle:]
    for n in range(1, int(cuts)):
        out[middle + n * step :] = (other, frames)[n % 2][middle + n * step :]
    return out


def _black(frames: Frames, share: float, rng: Rng, other: Frames) -> Frames:
    out = frames.copy()
    out[_span(len(frames), share, rng)] = 0
    return out


def _blank(frames: Frames, share: float, rng: Rng, other: Frames) -> Frames:
    out = frames.copy()
    out[_span(len(frames), share, rng) if share < 1 else slice(None)] = rng.integers(60, 200, 3)
    return out


def _static(frames: Frames, pace: float, rng: Rng, other: Frames) -> Frames:
    """Slows the video down to almost nothing, with brightness noise in each frame."""
    time_T = np.arange(len(frames)) * pace
    before_T, part_T = time_T.astype(int), (time_T % 1)[:, None, None, None]
    after_T = np.minimum(before_T + 1, len(frames) - 1)
    slow = frames[before_T] * (1 - part_T) + frames[after_T] * part_T
    return slow * rng.normal(1, 0.008, len(frames))[:, None, None, None]


def _flicker(frames: Frames, sd: float, rng: Rng, other: Frames) -> Frames:
    return frames * (1 + sd * rng.standard_normal(len(frames)))[:, None, None, None]


def _blur(frames: Frames, sigma: float, rng: Rng, other: Frames) -> Frames:
    return np.stack([cv2.GaussianBlur(f, (0, 0), sigma * frames.shape[2] / 100) for f in frames])


def _noise(frames: Frames, sd: float, rng: Rng, other: Frames) -> Frames:
    return frames + sd * rng.standard_normal(frames.shape, np.float32)


def _camera(frames: Frames, speed: float, rng: Rng, other: Frames) -> Frames:
    """Pans to and fro over an enlarged picture."""
    height, width = frames.shape[1:3]
    room = 0.2 * width
    way_T = speed / 100 * width * np.arange(len(frames)) / 8 + rng.uniform(0, 2 * room)
    left_T = room - np.abs(way_T % (2 * room) - room)
    scale = (width + room) / width
    shifts = [np.float32([[scale, 0, -left], [0, scale, -room / 2]]) for left in left_T]
    return np.stack(
        [cv2.warpAffine(f, m, (width, height)) for f, m in zip(frames, shifts, strict=True)]
    )


def _banding(frames: Frames, levels: float, rng: Rng, other: Frames) -> Frames:
    step = 256 / levels
    return (frames // step + 0.5) * step


def _blocks(frames: Frames, share: float, rng: Rng, other: Frames) -> Frames:
    """Takes the detail from blocks of 8x8 pixels, different blocks in each frame."""
    height, width = frames.shape[1:3]
    rows, columns = height // 8, width // 8
    out = frames.copy()
    for frame in out:
        coarse = cv2.resize(frame[: rows * 8, : columns * 8], (columns, rows), 0, 0, 0, 3)
        flat = coarse.repeat(8, 0).repeat(8, 1)
        lost = (rng.random((rows, columns)) < share).repeat(8, 0).repeat(8, 1)
        frame[: rows * 8, : columns * 8][lost] = flat[lost]
    return out


def _ghost(frames: Frames, trail: float, rng: Rng, other: Frames) -> Frames:
    """Blends each frame with the frames before it."""
    return np.stack([frames[max(0, t - int(trail)) : t + 1].mean(0) for t in range(len(frames))])


def _stutter(frames: Frames, held: float, rng: Rng, other: Frames) -> Frames:
    """Repeats one frame in four, or holds each frame `held` times."""
    index_T = np.arange(len(frames))
    if held < 2:
        index_T = index_T - (index_T % 4 == 3)
    return frames[index_T - index_T % int(held)]


def _melt(frames: Frames, bend: float, rng: Rng, other: Frames) -> Frames:
    """Warps the picture smoothly, moving and growing with time."""
    num_frames, height, width = frames.shape[:3]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    waves = rng.uniform(1, 3, (2, 2)) * 2 * np.pi / width
    turns = rng.uniform(2, 4, 2)
    out = []
    for t, frame in enumerate(frames):
        size = bend / 100 * width * min(1.0, 0.3 + t / num_frames)
        dx = size * np.sin(waves[0, 0] * rows + waves[0, 1] * columns + turns[0] * t / 8)
        dy = size * np.sin(waves[1, 0] * columns + waves[1, 1] * rows + turns[1] * t / 8)
        warped = (columns + np.float32(dx), rows + np.float32(dy))
        out.append(cv2.remap(frame, *map(np.float32, warped), 1, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(out)


DEFECTS = {
    "frozen": Defect(_frozen, (0.15, 0.4, 0.8), "share of frames that stand still"),
    "cut": Defect(_cut, (0.5, 1, 3), "cuts to another place; half a one is a dissolve"),
    "black": Defect(_black, (0.05, 0.2, 0.6), "share of black frames"),
    "blank": Defect(_blank, (0.05, 0.4, 1.0), "share of frames of one colour"),
    "static": Defect(_static, (0.15, 0.05, 0.0), "share of the pace that is left"),
    "flicker": Defect(_flicker, (0.04, 0.08, 0.2), "standard deviation of the brightness"),
    "blur": Defect(_blur, (0.8, 1.6, 4.0), "sigma in percent of the width"),
    "noise": Defect(_noise, (10, 25, 60), "standard deviation in grey levels"),
    "camera": Defect(_camera, (6, 15, 40), "pan in percent of the width per second"),
    "banding": Defect(_banding, (12, 6, 3), "levels a colour"),
    "blocks": Defect(_blocks, (0.1, 0.4, 1.0), "share of 8x8 blocks without detail"),
    "ghost": Defect(_ghost, (2, 4, 8), "earlier frames in each frame"),
    "stutter": Defect(_stutter, (1, 2, 4), "frames each is held for; 1: one frame in four repeats"),
    "melt": Defect(_melt, (1.5, 4.0, 8.0), "bend in percent of the width"),
}
