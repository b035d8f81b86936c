"""Descriptions of surveillance scenes in normal/abnormal twins, from four elements.

    python -m generation.prompts --num_pairs=130 --seed=0 --out=prompts.jsonl
    python -m generation.prompts --writer=chat --chat_model=MODEL --num_pairs=130 \\
        --sampling='{"temperature": 1.0}' --out=prompts.jsonl

A description says viewpoint, location, subject and event; its twin shares the first three, and
the seed, so the event alone tells them apart. The built-in grammar writes them without a network;
a language model behind any OpenAI-compatible API writes freer ones (generation/prompts_chat.py).
Killed anywhere, the same command goes on. Prints one JSON object; with pairs missing after all
attempts, what is there goes to *.incomplete.jsonl and the exit status is 1.
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

from generation import chat_options
from generation.grammar import GRAMMAR, VIEWPOINTS
from gvvad_jax import options
from gvvad_jax.store import UserError, run_command, write_atomically

CLASSES = tuple(GRAMMAR)
TEMPLATE_VERSION = 1
# File systems take names of 255; the clips' files add up to 23, while they are written.
_ID_BYTES = 230
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
        if not _names_a_file(given["id"]):
            raise UserError(
                f"expected an id that can name a file (at most {_ID_BYTES} bytes), found "
                f"{given['id'][:40]!r}; give another"
            )
        return cls(**given)


def _names_a_file(name: str) -> bool:
    encoded = name.encode("utf-8", "ignore")  # loses halves of surrogate pairs
    plain = name == os.path.basename(name) and not name.startswith(".") and "\0" not in name
    return plain and 0 < len(encoded) <= _ID_BYTES and encoded.decode() == name


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


def slot(index: int, seed: int, viewpoints: Sequence[str] = VIEWPOINTS) -> Slot:
    """The plan's pair number `index`, from 0.

    Classes take turns. Within a class, viewpoints and locations take turns, and as their numbers
    have no common factor, all combinations come before one repeats.
    """
    return _draw(index, seed, viewpoints)[0]


def _draw(
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


def capacity() -> int:
    """How many pairs without a duplicate the grammar holds."""
    return len(CLASSES) * min(_combinations(grammar) for grammar in GRAMMAR.values())


def _combinations(grammar) -> int:
    places = len(VIEWPOINTS) * len(grammar.locations)
    return places * len(grammar.subjects) * len(grammar.events)


def write_grammar(num_pairs: int, seed: int) -> list[Description]:
    """Twins from the built-in grammar: abnormal, normal, abnormal, normal ...

    Where each happens is planned (see `slot`); from the same camera it is another subject or event
    each time. The first n pairs don't depend on how many follow.

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
    slot, order = _draw(index, seed)
    grammar = GRAMMAR[slot.cls]
    places = len(VIEWPOINTS) * len(grammar.locations)
    actions = len(grammar.subjects) * len(grammar.events)
    # A place's first action is drawn; each return to the place takes the next one.
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
        with open(path, encoding="utf-8") as file:
            lines = file.readlines()  # not splitlines, which cuts texts at U+2028 too
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


def write_by_chat(
    out: str | os.PathLike,
    num_pairs: int,
    seed: int,
    asked: chat_options.Options,
    *,
    clip_tokenizer: str = "",
    allow_missing: int = 0,
) -> dict[str, Any]:
    """Has a language model write pairs; see prompts_chat.write_chat.

    Args:
      out: the file to write; what isn't complete goes to *.incomplete.jsonl beside it instead.
      num_pairs, seed: as for `write_grammar`.
      asked: the server.
      clip_tokenizer: folder of a CLIP tokenizer that measures phrases exactly.
      allow_missing: pairs that may be missing from a complete file.

    Returns:
      {out, complete, descriptions, missing: {name: reason}, remedy, usage}.

    Raises:
      UserError: a server that can't be used.
    """
    from generation import chat, prompts_chat

    out = pathlib.Path(out)
    server = chat.Server(**asked.server_settings(out))
    written = prompts_chat.write_chat(
        num_pairs, seed, server, attempts=asked.attempts, clip_tokenizer=clip_tokenizer
    )
    complete = len(written.missing) <= allow_missing and bool(written.descriptions)
    incomplete = out.with_suffix(f".incomplete{out.suffix}")
    path = out if complete else incomplete
    incomplete.unlink(missing_ok=True)
    if written.descriptions:
        save(path, written.descriptions)
    print_coverage(written.descriptions)
    for name, reason in written.missing.items():
        print(f"missing {name}: {' '.join(reason.split())}", file=sys.stderr)
    return {
        "out": str(path) if written.descriptions else None,
        "complete": complete,
        "descriptions": len(written.descriptions),
        "missing": written.missing,
        "remedy": "" if complete else written.remedy(asked.attempts),
        "usage": server.usage.to_json(),
    }


def print_coverage(descriptions: Sequence[Description]) -> None:
    """Tells on standard error how the descriptions are spread."""
    counts = coverage(descriptions)
    labels = collections.Counter((d.cls, d.label) for d in descriptions)
    counts["class"] = {
        f"{name} ({labels[name, 1]} abnormal, {labels[name, 0]} normal)": count
        for name, count in counts["class"].items()
    }
    for element, named in counts.items():
        print(f"{element}:", file=sys.stderr)
        for name, count in named.items():
            print(f"  {count:5d}  {name}", file=sys.stderr)
    combined = collections.Counter((d.cls, d.viewpoint, d.location) for d in descriptions)
    print("combinations of viewpoint and location, and pairs of each:", file=sys.stderr)
    for cls in sorted({cls for cls, _, _ in combined}):
        pairs = [count // 2 for (of, _, _), count in combined.items() if of == cls]
        print(f"  {len(pairs):5d}  {cls}: {min(pairs)} to {max(pairs)}", file=sys.stderr)


def main(_) -> None:
    if not pathlib.Path(_OUT.value).name:
        raise UserError(f"--out: expected a file to write, found {_OUT.value!r}; name one")
    if _WRITER.value == "grammar":
        descriptions = write_grammar(_NUM_PAIRS.value, _SEED.value)
        save(_OUT.value, descriptions)
        print_coverage(descriptions)
        print(json.dumps({"out": _OUT.value, "descriptions": len(descriptions)}))
        return
    summary = write_by_chat(
        _OUT.value,
        _NUM_PAIRS.value,
        _SEED.value,
        options.from_flags(chat_options.Options),
        clip_tokenizer=_CLIP_TOKENIZER.value,
        allow_missing=_ALLOW_MISSING.value,
    )
    print(json.dumps(summary))
    if not summary["complete"]:
        print(
            f"error: {_OUT.value}: expected all pairs, found {len(summary['missing'])} missing; "
            + summary["remedy"],
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    _WRITER = flags.DEFINE_enum(
        "writer", "grammar", ["grammar", "chat"], "The built-in grammar, or a language model."
    )
    _NUM_PAIRS = flags.DEFINE_integer("num_pairs", 130, "Pairs of normal and abnormal twins.")
    _SEED = flags.DEFINE_integer("seed", 0, "Another seed gives another order of everything.")
    _OUT = flags.DEFINE_string("out", "prompts.jsonl", "The file to write.")
    _CLIP_TOKENIZER = flags.DEFINE_string(
        "clip_tokenizer", "", "chat: folder of a CLIP tokenizer that measures phrases exactly."
    )
    _ALLOW_MISSING = flags.DEFINE_integer(
        "allow_missing", 0, "chat: pairs that may be missing from a complete file.", lower_bound=0
    )
    options.define_flags(chat_options.Options)
    run_command(main, usage=__doc__)
