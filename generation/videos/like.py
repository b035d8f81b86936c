"""Frame rate and length of generated videos, taken from a store of real ones (--like).

A detector sees the pace of motion through the frame rate, and the share of an event through the
length, so generated videos help most where both are as in the real ones.
"""

import dataclasses
import math
import os
import statistics

from generation.videos import presets
from generation.videos.options import DiffusersOptions
from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store

# Fairness of the world was checked on footage of at most this length (tools/check_world.py).
WORLD_SECONDS = 24.0
# Rates that a generator without a rate of its own takes: --fps allows no lower one, and cameras
# that are faster film slow motion.
ANY_RATE = (1.0, 60.0)


@dataclasses.dataclass(frozen=True)
class RealVideos:
    """What is typical of the real training videos of a store.

    Attributes:
      path: the store.
      count: number of such videos.
      fps: their median frame rate; of an even number of videos the lower middle one, so that it is
        a rate that some video has.
      seconds: their median length.
    """

    path: str
    count: int
    fps: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Which frame rates and lengths a generator can make.

    Attributes:
      name: the generator, for messages.
      rates: lowest and highest frames per second; equal where the generator has its own pace.
      num_frames: largest number of frames; None for WORLD_SECONDS.
      frame_step: K of the K*N+1 frames that it can generate.
    """

    name: str
    rates: tuple[float, float]
    num_frames: int | None
    frame_step: int


def read(path: str | os.PathLike[str]) -> RealVideos:
    """Reads the frame rates and lengths of a store's real training videos.

    Raises:
      UserError: there is no such store, or it has no real training video.
    """
    store = Store(path)
    train = {video.id for video in store.videos.in_split("train")}
    rows = [row for row in store.rows.values() if row.source == "real" and row.id in train]
    if not rows:
        raise UserError(
            f"--like={path}: expected a store with real videos of split train, found none in it; "
            "give the store of the real training videos"
        )
    return RealVideos(
        str(path),
        len(rows),
        float(statistics.median_low(row.fps for row in rows)),
        float(statistics.median(row.num_frames / row.fps for row in rows)),
    )


def bounds(options: DiffusersOptions, backend: str) -> Bounds:
    """Returns what a generator can make.

    Args:
      options: the text-to-video model, for diffusers.
      backend: world or diffusers.

    Raises:
      UserError: it is no published model, so that its rate and frame counts are unknown.
    """
    if backend == "world":
        return Bounds("the world", ANY_RATE, None, 1)
    preset = presets.find_preset(options.generator, options.model)
    if preset is None:
        raise UserError(
            f"--like: expected a published model ({', '.join(presets.PRESETS)}), whose frame rate "
            f"and frame counts are known, found {options.model}; give --fps and --num_frames in "
            "place of --like"
        )
    rates = ANY_RATE if preset.any_rate else (preset.fps, preset.fps)
    name = options.generator or options.model or preset.model
    return Bounds(name, rates, preset.num_frames, preset.frame_step)


def fitted(
    options: DiffusersOptions, backend: str, path: str | os.PathLike[str]
) -> tuple[DiffusersOptions, str]:
    """Sets the frame rate and length of generated videos as near to real ones as possible.

    A model that isn't told a frame rate moves at its own, and its frames would play too fast or too
    slow at another.

    Args:
      options: the model; its `fps` and `num_frames` stay where they are given.
      backend: world or diffusers.
      path: store of the real videos.

    Returns:
      (options with both numbers, one line that says what was chosen and why).

    Raises:
      UserError: see `read` and `bounds`.
    """
    return _fitted(options, bounds(options, backend), read(path))


def _fitted(
    options: DiffusersOptions, limits: Bounds, real: RealVideos
) -> tuple[DiffusersOptions, str]:
    given = [f"--{name}" for name in ("fps", "num_frames") if getattr(options, name) is not None]
    low, high = limits.rates
    fps, reasons = min(max(real.fps, low), high), []
    if options.fps is not None:
        fps = options.fps
    elif fps != real.fps:
        reasons.append(f"moves at {low:g} fps" if low == high else f"takes {low:g} to {high:g} fps")
    num_frames, reason = _num_frames(limits, fps, real.seconds)
    if options.num_frames is not None:
        num_frames = options.num_frames
    elif reason:
        reasons.append(reason)
    line = (
        f"--like: {num_frames} frames at {_number(fps)} fps; the median of {real.count} real "
        f"training videos of {real.path} is {_number(real.fps)} fps and {_number(real.seconds)} s"
        + (f", but {limits.name} {' and '.join(reasons)}" if reasons else "")
        + (f"; {' and '.join(given)} as given" if given else "")
    )
    return dataclasses.replace(options, fps=fps, num_frames=num_frames), line


def _num_frames(limits: Bounds, fps: float, seconds: float) -> tuple[int, str]:
    """Returns the possible number of frames next to a length, and why it is another, or ""."""
    step = limits.frame_step
    most = limits.num_frames or int(WORLD_SECONDS * fps)
    longest = f"{most} frames" if limits.num_frames else f"{WORLD_SECONDS:g} s"
    wanted = seconds * fps
    nearest = 1 + step * math.ceil((wanted - 1) / step - 0.5)
    if nearest > most:
        return most, f"makes at most {longest}"
    if nearest < 1 + step:
        return 1 + step, f"makes at least {1 + step} frames"
    return nearest, "" if abs(nearest - wanted) <= 0.5 else f"makes {step}N+1 frames"


def _number(value: float) -> str:
    """Returns a number with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
