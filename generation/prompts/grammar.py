"""Twin descriptions written by the built-in grammar, without a model."""

from collections.abc import Mapping, Sequence

from generation.prompts.descriptions import CLASSES, Description
from generation.prompts.slots import draw_slot
from generation.prompts.words import GRAMMAR, VIEWPOINTS, ClassGrammar
from gvvad_jax.command import UserError

_STYLE = "Realistic CCTV footage from a fixed camera, continuous shot, natural motion."


def capacity(classes: Sequence[str] = CLASSES) -> int:
    """Returns how many different pairs the grammar can write about some classes."""
    return len(classes) * min(_combinations(GRAMMAR[cls]) for cls in classes)


def _combinations(grammar: ClassGrammar) -> int:
    places = len(VIEWPOINTS) * len(grammar.locations)
    return places * len(grammar.subjects) * len(grammar.events)


def write_grammar(num_pairs: int, seed: int, classes: Sequence[str] = CLASSES) -> list[Description]:
    """Writes twins from the built-in grammar: abnormal, normal, abnormal, normal ...

    Viewpoints and locations are planned (see `slots`). Each return to the same camera takes
    another subject or event. The first n pairs do not depend on how many follow.

    Args:
      num_pairs: number of pairs of twins, at most the classes' `capacity`.
      seed: 0 or more; another seed gives another order of everything.
      classes: what the pairs are about; see `slots.parse_classes`. They take turns.

    Returns:
      2 * num_pairs descriptions, no two with the same elements.

    Raises:
      UserError: more pairs than the grammar can write, or a negative number.
    """
    most = capacity(classes)
    if not 0 < num_pairs <= most or seed < 0:
        raise UserError(
            f"--num_pairs, --seed: expected 1 to {most} pairs and a seed of 0 or more, found "
            f"{num_pairs} and {seed}; the grammar has no more about these classes without "
            "repeating itself"
        )
    return [twin for index in range(num_pairs) for twin in _pair(index, seed, classes)]


def _pair(index: int, seed: int, classes: Sequence[str]) -> tuple[Description, Description]:
    slot, order = draw_slot(index, seed, classes)
    grammar = GRAMMAR[slot.cls]
    places = len(VIEWPOINTS) * len(grammar.locations)
    actions = len(grammar.subjects) * len(grammar.events)
    # The first action at a place is drawn; each return to the place takes the next one.
    first_action_P = order.integers(actions, size=places)
    action = (first_action_P[slot.turn % places] + slot.visit) % actions
    event_index, subject_index = divmod(int(action), len(grammar.subjects))
    elements = {
        "viewpoint": slot.viewpoint,
        "location": slot.location,
        "subject": grammar.subjects[subject_index],
    }
    abnormal, normal = (
        Description(
            id=slot.id(label),
            twin=slot.id(1 - label),
            cls=slot.cls,
            label=label,
            seed=slot.seed,
            event=grammar.events[event_index][1 - label],
            description=_long_text(elements, grammar.events[event_index][1 - label]),
            phrase=f"{elements['subject']} {grammar.events[event_index][1 - label]} "
            f"in {elements['location']}",
            **elements,
        )
        for label in (1, 0)
    )
    return abnormal, normal


def _long_text(elements: Mapping[str, str], event: str) -> str:
    subject = elements["subject"]
    return (
        f"A surveillance video of {elements['location']}, seen from {elements['viewpoint']}. "
        f"{subject[0].upper()}{subject[1:]} can be seen {event}. {_STYLE}"
    )
