"""What is settled of each pair of descriptions before anyone writes it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from generation.prompts.descriptions import CLASSES
from generation.prompts.words import GRAMMAR, VIEWPOINTS


@dataclasses.dataclass(frozen=True)
class Slot:
    """What is settled of a pair before anyone writes it.

    Attributes:
      cls: UCF-Crime class.
      turn: how many pairs of the class come before.
      viewpoint, location: where the camera is.
      visit: how many pairs of the class come before from the same camera.
      seed: of both videos.
    """

    cls: str
    turn: int
    viewpoint: str
    location: str
    visit: int
    seed: int

    @property
    def name(self) -> str:
        """Of the pair."""
        return f"{self.cls}-{self.turn:04d}"

    def id(self, label: int) -> str:
        """Of one of the twins."""
        return f"{self.name}-{'abnormal' if label else 'normal'}"


def plan_slot(index: int, seed: int, viewpoints: Sequence[str] = VIEWPOINTS) -> Slot:
    """The plan's pair number `index`, from 0.

    Classes take turns. Within a class, viewpoints and locations take turns, and as their numbers
    have no common factor, all combinations come before one repeats.
    """
    return draw_slot(index, seed, viewpoints)[0]


def draw_slot(
    index: int, seed: int, viewpoints: Sequence[str] = VIEWPOINTS
) -> tuple[Slot, np.random.Generator]:
    """The slot, and the class's random numbers where the slot's draws end."""
    turn, class_index = divmod(index, len(CLASSES))
    cls = CLASSES[class_index]
    order = np.random.default_rng([seed, class_index])
    viewpoints = order.permutation(viewpoints)
    locations = order.permutation(GRAMMAR[cls].locations)
    drawn = Slot(
        cls,
        turn,
        viewpoint=str(viewpoints[turn % len(viewpoints)]),
        location=str(locations[turn % len(locations)]),
        visit=turn // (len(viewpoints) * len(locations)),
        seed=int(np.random.default_rng([seed, class_index, turn]).integers(2**31)),
    )
    return drawn, order
