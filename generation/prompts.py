"""Descriptions of surveillance scenes in normal/abnormal twins, from four elements.

    python -m generation.prompts --num_pairs=130 --seed=0 --out=prompts.jsonl

A description says viewpoint, location, subject and event; its twin shares the first three, and
the seed, so the event alone tells them apart. The built-in grammar writes them without a network.
"""

import collections
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from generation.grammar import GRAMMAR, VIEWPOINTS
from gvvad_jax.store import UserError, run_command, write_atomically

CLASSES = tuple(GRAMMAR)
TEMPLATE_VERSION = 1
_STYLE = "Realistic CCTV footage from a fixed camera, continuous shot, natural motion."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """One line of a prompts.jsonl: what one video is to show.

    Attributes:
      id: the video's name, e.g. "Fighting-0003-abnormal".
      twin: id of the other one of the pair.
      cls: UCF-Crime class of the pair; JSON calls it "class".
      label: 1 abnormal, 0 normal.
      seed: for the generator; twins share it.
      viewpoint, location, subject, event: the four elements.
      description: long text, for a text-to-video model.
      phrase: short text, well under CLIP's 77 tokens.
      model: who wrote it; "grammar" is the built-in one.
      template_version: of the texts around the elements.
    """

    id: str
    twin: str
    cls: str
    label: int
    seed: int
    viewpoint: str
    location: str
    subject: str
    event: str
    description: str
    phrase: str
    model: str = "grammar"
    template_version: int = TEMPLATE_VERSION

    def to_json(self) -> dict[str, Any]:
        """The line's content; `from_json` reads it back equal."""
        entry = dataclasses.asdict(self)
        return {("class" if key == "cls" else key): value for key, value in entry.items()}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Description":
        """Raises UserError when a field is missing, unknown or of another type."""
        if not isinstance(entry, Mapping):
            raise UserError(f"expected a JSON object, found {str(entry)[:40]!r}")
        given = {("cls" if key == "class" else key): value for key, value in entry.items()}
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in fields.keys() | given.keys():
            if name not in fields:
                raise UserError(f"expected no field {name!r}; remove it")
            if name not in given:
                if fields[name].default is dataclasses.MISSING:
                    raise UserError(f"expected a field {name.replace('cls', 'class')!r}; add it")
            elif type(given[name]) is not fields[name].type:
                expected = fields[name].type.__name__
                raise UserError(f"expected {name} of type {expected}, found {given[name]!r}")
        if given["label"] not in (0, 1):
            raise UserError(f"expected label 0 or 1, found {given['label']!r}")
        if given["seed"] < 0:
            raise UserError(f"expected a seed of 0 or more, found {given['seed']!r}")
        # An id becomes a file's name.
        name = given["id"]
        if not name or name != os.path.basename(name) or name.startswith("."):
            raise UserError(f"expected an id that can name a file, found {name!r}")
        return cls(**given)


def capacity() -> int:
    """How many pairs without a duplicate the grammar holds."""
    return len(CLASSES) * min(_combinations(grammar) for grammar in GRAMMAR.values())


def _combinations(grammar) -> int:
    places = len(VIEWPOINTS) * len(grammar.locations)
    return places * len(grammar.subjects) * len(grammar.events)


def write_grammar(num_pairs: int, seed: int) -> list[Description]:
    """Twins from the built-in grammar: abnormal, normal, abnormal, normal ...

    Classes take turns. Within a class, viewpoints and locations take turns (their numbers have
    no common factor, so all combinations come before one repeats), and a repeated combination
    gets another subject or event. The first n pairs don't depend on how many follow.

    Args:
      num_pairs: of twins, at most `capacity()`.
      seed: 0 or more; another seed gives another order of everything.

    Returns:
      2 * num_pairs descriptions, no two with the same elements.

    Raises:
      UserError: more pairs than the grammar holds, or a negative number.
    """
    if not 0 < num_pairs <= capacity() or seed < 0:
        raise UserError(
            f"--num_pairs, --seed: expected 1 to {capacity()} pairs and a seed of 0 or more, "
            f"found {num_pairs} and {seed}; the built-in grammar holds no more without repeating"
        )
    return [twin for index in range(num_pairs) for twin in _pair(index, seed)]


def _pair(index: int, seed: int) -> tuple[Description, Description]:
    turn, class_index = divmod(index, len(CLASSES))
    cls = CLASSES[class_index]
    grammar = GRAMMAR[cls]
    order = np.random.default_rng([seed, class_index])
    viewpoints = order.permutation(VIEWPOINTS)
    locations = order.permutation(grammar.locations)
    places = len(viewpoints) * len(locations)
    actions = len(grammar.subjects) * len(grammar.events)
    # A place's first action is drawn; each return to the place takes the next one.
    first_action_P = order.integers(actions, size=places)
    action = (first_action_P[turn % places] + turn // places) % actions
    event_index, subject_index = divmod(int(action), len(grammar.subjects))
    elements = {
        "viewpoint": str(viewpoints[turn % len(viewpoints)]),
        "location": str(locations[turn % len(locations)]),
        "subject": grammar.subjects[subject_index],
    }
    pair_seed = int(np.random.default_rng([seed, class_index, turn]).integers(2**31))
    names = {1: f"{cls}-{turn:04d}-abnormal", 0: f"{cls}-{turn:04d}-normal"}
    abnormal, normal = (
        Description(
            id=names[label],
            twin=names[1 - label],
            cls=cls,
            label=label,
            seed=pair_seed,
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


def save(path: str | os.PathLike, descriptions: Sequence[Description]) -> None:
    """Writes a prompts.jsonl, whole or not at all."""
    lines = [json.dumps(description.to_json()) + "\n" for description in descriptions]
    pathlib.Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines).encode())


def load(path: str | os.PathLike) -> list[Description]:
    """Reads and checks a prompts.jsonl.

    Raises:
      UserError: missing file, a wrong line (named), a repeated id, no line at all.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: expected descriptions, one JSON a line, found none ({error}); "
            "write them with python -m generation.prompts"
        ) from error
    descriptions = []
    for number, line in enumerate(lines, 1):
        try:
            descriptions.append(Description.from_json(json.loads(line)))
        except ValueError as error:  # UserError and broken JSON alike
            raise UserError(f"{path}, line {number}: {error}") from error
    counts = collections.Counter(description.id for description in descriptions)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated or not descriptions:
        raise UserError(
            f"{path}: expected descriptions with different ids, found "
            f"{f'{repeated[0]!r} twice' if repeated else 'none'}; write the file anew"
        )
    return descriptions


def coverage(descriptions: Sequence[Description]) -> dict[str, dict[str, int]]:
    """How many descriptions have each class, label, viewpoint and location."""
    return {
        element: dict(sorted(collections.Counter(getattr(d, field) for d in descriptions).items()))
        for element, field in (
            ("class", "cls"),
            ("label", "label"),
            ("viewpoint", "viewpoint"),
            ("location", "location"),
        )
    }


def main(_) -> None:
    descriptions = write_grammar(_NUM_PAIRS.value, _SEED.value)
    save(_OUT.value, descriptions)
    for element, counts in coverage(descriptions).items():
        print(f"{element}:", file=sys.stderr)
        for name, count in counts.items():
            print(f"  {count:5d}  {name}", file=sys.stderr)
    print(json.dumps({"out": _OUT.value, "descriptions": len(descriptions)}))


if __name__ == "__main__":
    _NUM_PAIRS = flags.DEFINE_integer("num_pairs", 130, "Pairs of normal and abnormal twins.")
    _SEED = flags.DEFINE_integer("seed", 0, "Another seed gives another order of everything.")
    _OUT = flags.DEFINE_string("out", "prompts.jsonl", "The file to write.")
    run_command(main, usage=__doc__)
