"""Events of the built-in world: how each class looks, and its calm twin.

Abnormal events differ from normal life in the kind of motion, not in its amount: limbs and bodies
move back and forth, and debris and smoke spread, while walkers and traffic of the same speed keep
their course. The thirteen classes share a handful of motions. Outside its intervals an abnormal
video is as calm as its twin.
"""

import dataclasses
import re

import cv2
import numpy as np

from generation.world.crowds import gait
from generation.world.scenes import Figure, Stage, person, vehicle

MOTIONS = {
    "Abuse": "brawl",
    "Arrest": "brawl",
    "Arson": "blaze",
    "Assault": "brawl",
    "Burglary": "raid",
    "Explosion": "blast",
    "Fighting": "brawl",
    "RoadAccidents": "crash",
    "Robbery": "raid",
    "Shooting": "panic",
    "Shoplifting": "raid",
    "Stealing": "raid",
    "Vandalism": "wreck",
}
_NUMBERS = {"two": 2, "three": 3, "four": 4, "group": 4, "gang": 4, "several": 4, "few": 3}
_FIRE = np.array([[255, 235, 150], [255, 190, 60], [250, 120, 30], [225, 70, 20]], float)


@dataclasses.dataclass(frozen=True)
class Vapour:
    """Smoke, flames or debris over the whole video.

    Attributes:
      centres_TxNx2: pixels.
      radius_TxN: pixels; 0 where there is none.
      colour_Nx3: RGB.
      opacity: 0 to 1.
    """

    centres_TxNx2: np.ndarray
    radius_TxN: np.ndarray
    colour_Nx3: np.ndarray
    opacity: float

    def draw(self, canvas: np.ndarray, t: int) -> None:
        """Draws frame t onto a canvas."""
        present_N = np.flatnonzero(self.radius_TxN[t] > 0.3)
        if not len(present_N):
            return
        layer = canvas if self.opacity == 1 else canvas.copy()
        centres_Nx2 = np.round(self.centres_TxNx2[t] * 16).astype(int).tolist()
        radius_N = np.round(self.radius_TxN[t] * 16).astype(int).tolist()
        for n in present_N:
            colour = self.colour_Nx3[n].tolist()
            cv2.circle(layer, centres_Nx2[n], radius_N[n], colour, -1, cv2.LINE_AA, 4)
        if self.opacity < 1:
            cv2.addWeighted(layer, self.opacity, canvas, 1 - self.opacity, 0, dst=canvas)


@dataclasses.dataclass(frozen=True)
class Act:
    """What the subjects of a description do: figures, vapours and flashes.

    Attributes:
      figures: people and vehicles.
      vapours: drawn over the figures.
      flash_T: light added to the whole picture, grey levels.
    """

    figures: list[Figure]
    vapours: list[Vapour]
    flash_T: np.ndarray


def calm(stage: Stage, rng: np.random.Generator, cls: str, subject: str) -> Act:
    """Returns the act of the normal twin: the same subjects, and no event."""
    return _act(stage, rng, cls, subject, np.zeros(len(stage.seconds_T)))


def event(
    stage: Stage,
    rng: np.random.Generator,
    cls: str,
    subject: str,
    intervals: list[tuple[int, int]],
    strength: float = 1.0,
) -> Act:
    """Returns the act of the abnormal twin.

    Args:
      stage: the place.
      rng: random stream of this act.
      cls: UCF-Crime class; any other name brawls.
      subject: words that say how many people take part.
      intervals: [start, end) in frames; outside of them the subjects are calm.
      strength: amplitude of the motion; 1 as in footage.

    Returns:
      The act.
    """
    during_T = np.zeros(len(stage.seconds_T))
    for start, end in intervals:
        during_T[start:end] = strength
    return _act(stage, rng, cls, subject, during_T)


def _act(
    stage: Stage, rng: np.random.Generator, cls: str, subject: str, during_T: np.ndarray
) -> Act:
    motion = MOTIONS.get(cls, "brawl")
    spot = np.array(stage.ground(rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.75)))
    words = re.findall(r"[a-z]+", subject.lower())
    count = max([2, *(_NUMBERS[word] for word in words if word in _NUMBERS)])
    figures, vapours, flash_T = [], [], np.zeros(len(during_T))
    scale = float(stage.scale(spot[1]))
    if motion == "crash":
        figures += _crash(stage, rng, spot, during_T)
        count = 1
    reach = {"raid": 16.0, "panic": 20.0, "blast": 18.0, "blaze": 5.0}.get(motion, 6.5)
    figures += _troupe(stage, rng, spot, max(count, 3 if motion == "panic" else 2), reach, during_T)
    if motion in ("wreck", "crash", "blast", "raid"):
        vapours.append(_debris(stage, rng, spot, during_T))
    if motion in ("blaze", "blast", "crash"):
        vapours.append(_smoke(stage, rng, spot - [0, 12 * scale], during_T))
    if motion in ("blaze", "blast"):
        vapours.append(_flames(stage, rng, spot, during_T))
    if motion in ("blast", "panic"):
        starts_T = np.diff(during_T > 0, prepend=False).astype(bool) & (during_T > 0)
        shots_T = (rng.random(len(during_T)) < 0.15) & (during_T > 0)
        flash_T += 70.0 * starts_T if motion == "blast" else 22.0 * shots_T
    return Act(figures, vapours, flash_T)


def jerks(rng: np.random.Generator, seconds_T: np.ndarray, rate: float) -> np.ndarray:
    """Returns a back-and-forth motion in [-1, 1] that turns `rate` times a second."""
    knots = int(np.ceil(seconds_T[-1] * rate)) + 2
    turns_K = rng.uniform(0.5, 1.0, knots) * (-1.0) ** np.arange(knots)
    return np.interp(seconds_T, np.arange(knots) / rate - rng.uniform(0, 1 / rate), turns_K)


def _troupe(
    stage: Stage,
    rng: np.random.Generator,
    spot: np.ndarray,
    count: int,
    reach: float,
    during_T: np.ndarray,
) -> list[Figure]:
    """Returns people around a spot, who talk when calm and flail during the event."""
    seconds_T = stage.seconds_T
    people = []
    for index in range(count):
        scale = float(stage.scale(spot[1]))
        place = (index - (count - 1) / 2) * rng.uniform(11, 15) * scale
        closer_T = place * (1 - 0.45 * np.minimum(during_T, 1))
        rate = rng.uniform(2.6, 3.8)
        x_T = spot[0] + closer_T + reach * scale * during_T * jerks(rng, seconds_T, rate)
        y_T = spot[1] + 0.35 * reach * scale * during_T * jerks(rng, seconds_T, rate)
        drift_T = 2 * scale * np.sin(0.5 * seconds_T + rng.uniform(0, 6))
        foot_Tx2 = np.stack([x_T + drift_T, y_T], 1)
        moves = gait(stage, rng, foot_Tx2)
        talk_Tx2 = 0.35 * np.stack(
            [np.sin(rng.uniform(1, 2.5) * seconds_T + rng.uniform(0, 6)) + 0.4 for _ in range(2)], 1
        )
        flail_Tx2 = np.stack(
            [1.3 + 1.3 * jerks(rng, seconds_T, rng.uniform(4, 5)) for _ in range(2)], 1
        )
        wild_Tx1 = np.minimum(during_T, 1)[:, None]
        moves["arms_Tx2"] = talk_Tx2 * (1 - wild_Tx1) + flail_Tx2 * [1, -1] * wild_Tx1
        lean_T = 0.45 * during_T * jerks(rng, seconds_T, rate)
        people.append(person(stage, rng, foot_Tx2, lean_T=lean_T, **moves))
    return people


def _crash(
    stage: Stage, rng: np.random.Generator, spot: np.ndarray, during_T: np.ndarray
) -> list[Figure]:
    """Returns two vehicles that meet at the spot when the event starts, or else pass."""
    seconds_T = stage.seconds_T
    scale = float(stage.scale(spot[1]))
    happens = during_T > 0
    figures = []
    for side in (-1.0, 1.0):
        speed = rng.uniform(55, 80) * scale
        row = spot[1] + side * 1.5 * scale
        if not happens.any():
            meeting = rng.uniform(0.2, 0.8) * seconds_T[-1]
            x_T = spot[0] + side * (16 * scale - speed * (seconds_T - meeting))
            foot_Tx2 = np.stack([x_T, np.full_like(x_T, row + side * 8 * scale)], 1)
            figures.append(vehicle(stage, rng, foot_Tx2))
            continue
        start = seconds_T[np.argmax(happens)]
        x_T = spot[0] + side * (16 * scale + speed * np.maximum(start - seconds_T, 0))
        since_T = np.maximum(seconds_T - start, 0)
        # Rocking fades but lasts as long as the event, so that all abnormal frames show it.
        rocking_T = during_T * (0.45 + np.exp(-since_T))
        x_T += 7 * scale * rocking_T * jerks(rng, seconds_T, 3.2)
        y_T = row + 2.5 * scale * rocking_T * jerks(rng, seconds_T, 3.6)
        tilt_T = 0.35 * rocking_T * jerks(rng, seconds_T, 2.8)
        figures.append(vehicle(stage, rng, np.stack([x_T, y_T], 1), tilt_T=tilt_T))
    return figures


def _debris(
    stage: Stage, rng: np.random.Generator, spot: np.ndarray, during_T: np.ndarray, count: int = 14
) -> Vapour:
    """Returns pieces that fly up and fall again, in bursts that last as long as the event."""
    seconds_T = stage.seconds_T[:, None]
    scale = float(stage.scale(spot[1]))
    period_N = rng.uniform(0.5, 0.9, count)
    age_TxN = (seconds_T + rng.uniform(0, 1, count)) % period_N
    angle_N = rng.uniform(-np.pi, 0, count)
    speed_N = rng.uniform(25, 60, count) * scale
    x_TxN = spot[0] + np.cos(angle_N) * speed_N * age_TxN
    fall_TxN = np.sin(angle_N) * speed_N * age_TxN + 60 * scale * age_TxN**2
    y_TxN = spot[1] - 12 * scale + fall_TxN
    radius_TxN = rng.uniform(0.8, 2.0, count) * scale * (during_T > 0)[:, None]
    colours = rng.uniform(30, 230, (count, 1)) * rng.uniform(0.9, 1.1, (count, 3))
    return Vapour(np.stack([x_TxN, y_TxN], 2), radius_TxN, np.clip(colours, 0, 255), 1.0)


def _smoke(
    stage: Stage, rng: np.random.Generator, spot: np.ndarray, during_T: np.ndarray, count: int = 22
) -> Vapour:
    """Returns puffs that rise, widen and tumble."""
    seconds_T = stage.seconds_T
    scale = float(stage.scale(spot[1]))
    period_N = rng.uniform(1.2, 2.2, count)
    age_TxN = (seconds_T[:, None] + rng.uniform(0, 2.2, count)) % period_N
    tumble_TxN = np.stack([jerks(rng, seconds_T, rng.uniform(2.5, 3.5)) for _ in range(count)], 1)
    spread_N = rng.normal(0, 8, count)
    x_TxN = spot[0] + (spread_N * (0.6 + age_TxN) + 3.5 * tumble_TxN) * scale
    y_TxN = spot[1] - 20 * scale * age_TxN + 2 * scale * tumble_TxN[:, ::-1]
    grow_T = np.clip(np.cumsum(during_T > 0) / max(1, 0.15 * (during_T > 0).sum()), 0, 1)
    radius_TxN = (2.5 + 4.5 * age_TxN) * scale * (grow_T * (during_T > 0))[:, None]
    colours = rng.uniform(35, 120, (count, 1)) * np.ones(3)
    return Vapour(np.stack([x_TxN, y_TxN], 2), radius_TxN, colours, 0.75)


def _flames(
    stage: Stage, rng: np.random.Generator, spot: np.ndarray, during_T: np.ndarray, count: int = 24
) -> Vapour:
    """Returns tongues of fire that flicker and climb."""
    seconds_T = stage.seconds_T
    scale = float(stage.scale(spot[1]))
    base_N = rng.normal(0, 7, count)
    lick_TxN = np.stack([jerks(rng, seconds_T, rng.uniform(3.5, 5)) for _ in range(count)], 1)
    height_N = rng.uniform(2, 26, count) * np.exp(-((base_N / 14) ** 2))
    x_TxN = spot[0] + (base_N + 2.5 * lick_TxN[:, ::-1]) * scale
    y_TxN = spot[1] - height_N * (1 + 0.35 * lick_TxN) * scale
    grow_T = np.clip(0.4 + np.cumsum(during_T > 0) / max(1, (during_T > 0).sum()), 0, 1)
    size_TxN = rng.uniform(2.5, 5.0, count) * (1 + 0.4 * lick_TxN) * scale
    radius_TxN = size_TxN * (grow_T * (during_T > 0))[:, None]
    order_N = np.argsort(-height_N)
    colours = _FIRE[np.clip((height_N / 6).astype(int), 0, 3)]
    return Vapour(
        np.stack([x_TxN, y_TxN], 2)[:, order_N], radius_TxN[:, order_N], colours[order_N], 0.85
    )
