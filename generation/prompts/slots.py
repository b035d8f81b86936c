"""The plan of pairs: class, camera and seed of each pair, before anyone writes its words."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from generation.prompts.descriptions import CLASSES
from generation.prompts.words import GRAMMAR, VIEWPOINTS
from gvvad_jax.command import UserError, option

# Shared by the commands that write descriptions.
EVENT_CLASSES = option(
    "",
    "Event classes to write about, e.g. Fighting,Assault; pairs are spread evenly over them "
    "(default: all 13 of UCF-Crime).",
    group="Descriptions",
)


def parse_classes(text: str) -> tuple[str, ...]:
    """Returns the classes that --classes names, in the order of CLASSES; all of them for "".

    Raises:
      UserError: a class is unknown.
    """
    names = {name.strip() for name in text.split(",")} if text else set(CLASSES)
    if unknown := sorted(names - set(CLASSES)):
        raise UserError(
            f"--classes: expected names of {', '.join(CLASSES)}, separated by commas, found "
            f"{unknown[0]!r}; correct the flag"
        )
    return tuple(cls for cls in CLASSES if cls in names)


@dataclasses.dataclass(frozen=True)
class Slot:
    """The planned part of a pair.

    Attributes:
      cls: UCF-Crime class.
      turn: number of earlier pairs of the class.
      viewpoint, location: where the camera is.
      visit: number of earlier pairs of the class with the same viewpoint and location.
      seed: seed of both videos.
    """

    cls: str
    turn: int
    viewpoint: str
    location: str
    visit: int
    seed: int

    @property
    def name(self) -> str:
        """The pair's name, e.g. "Fighting-0003"."""
        return f"{self.cls}-{self.turn:04d}"

    def id(self, label: int) -> str:
        """Returns the id of the twin with a label, e.g. "Fighting-0003-abnormal"."""
        return f"{self.name}-{'abnormal' if label else 'normal'}"


def plan_slot(index: int, seed: int, classes: Sequence[str] = CLASSES) -> Slot:
    """Returns the plan's pair number `index`, counted from 0.

    Classes take turns. Within a class, viewpoints and locations take turns. Their numbers share no
    factor, so all combinations come before one repeats. The pair of a name and seed, e.g.
    "Fighting-0003", is the same whatever the other classes are.
    """
    return draw_slot(index, seed, classes)[0]


def draw_slot(
    index: int, seed: int, classes: Sequence[str] = CLASSES
) -> tuple[Slot, np.random.Generator]:
    """Returns the slot, and the class's random generator for the writer's further draws."""
    turn, place = divmod(index, len(classes))
    cls = classes[place]
    class_index = CLASSES.index(cls)
    order = np.random.default_rng([seed, class_index])
    viewpoints = order.permutation(VIEWPOINTS)
    locations = order.permutation(GRAMMAR[cls].locations)
    slot = Slot(
        cls,
        turn,
        viewpoint=str(viewpoints[turn % len(viewpoints)]),
        location=str(locations[turn % len(locations)]),
        visit=turn // (len(viewpoints) * len(locations)),
        seed=int(np.random.default_rng([seed, class_index, turn]).integers(2**31)),
    )
    return slot, order
