"""Normal life in the built-in world: people and traffic that cross a place."""

import numpy as np

from generation.world.scenes import Figure, Stage, person, vehicle


def gait(stage: Stage, rng: np.random.Generator, foot_Tx2: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the swing of legs and arms along a path, as far as the feet travel."""
    moved_T = np.linalg.norm(np.diff(foot_Tx2, axis=0, prepend=foot_Tx2[:1]), axis=1)
    step_T = rng.uniform(0, 6.3) + np.cumsum(moved_T / (stage.scale(foot_Tx2[:, 1]) * 7.0))
    swing_T = 0.45 * np.sin(step_T) * np.minimum(1, moved_T / (0.4 * stage.unit))
    return {"step_T": step_T, "arms_Tx2": np.stack([swing_T, -swing_T], 1)}


def crossing(
    stage: Stage, rng: np.random.Generator, row: float, speed: float, margin: float
) -> np.ndarray:
    """Returns a straight path across the picture that repeats from the same side.

    Args:
      stage: the place.
      rng: random stream for the side and the start.
      row: row of the feet, pixels.
      speed: units per second.
      margin: units beyond the edges; a larger one makes passes rarer.

    Returns:
      foot_Tx2 in pixels.
    """
    span = stage.width + 2 * margin * stage.unit
    way_T = rng.uniform(0, span) + speed * stage.scale(row) * stage.seconds_T
    across_T = way_T % span - margin * stage.unit
    if rng.random() < 0.5:
        across_T = stage.width - across_T
    return np.stack([across_T, np.full_like(across_T, row)], 1)


def walkers(stage: Stage, rng: np.random.Generator, count: int) -> list[Figure]:
    """Makes people who stroll across, or stand and talk."""
    people = []
    for _ in range(count):
        row = stage.ground(0, rng.uniform(0, 0.9))[1]
        foot_Tx2 = crossing(stage, rng, row, rng.uniform(9, 20), 25)
        if rng.random() < 0.3:
            foot_Tx2 = np.tile(foot_Tx2[:1], (len(foot_Tx2), 1))
        foot_Tx2[:, 1] += 2 * stage.unit * np.sin(0.3 * stage.seconds_T + rng.uniform(0, 6))
        people.append(person(stage, rng, foot_Tx2, **gait(stage, rng, foot_Tx2)))
    return people


def hurriers(stage: Stage, rng: np.random.Generator, count: int) -> list[Figure]:
    """Makes people who run past close to the camera: as much motion as an event, but normal."""
    people = []
    for _ in range(count):
        row = stage.height * rng.uniform(0.9, 1.25)
        foot_Tx2 = crossing(stage, rng, row, rng.uniform(30, 62), rng.uniform(30, 200))
        people.append(person(stage, rng, foot_Tx2, **gait(stage, rng, foot_Tx2)))
    return people


def traffic(stage: Stage, rng: np.random.Generator, count: int) -> list[Figure]:
    """Makes vehicles that pass at speed; indoors trolleys, smaller and slower."""
    vehicles = []
    for _ in range(count):
        row = stage.ground(0, rng.choice([0.25, 0.45, 0.62, 0.8]))[1]
        if stage.setting == "indoor":
            foot_Tx2 = crossing(stage, rng, row, rng.uniform(30, 60), rng.uniform(40, 160))
            vehicles.append(vehicle(stage, rng, foot_Tx2, trolley=True))
            continue
        foot_Tx2 = crossing(stage, rng, row, rng.uniform(50, 105), rng.uniform(50, 300))
        vehicles.append(vehicle(stage, rng, foot_Tx2))
    return vehicles
