"""Descriptions of surveillance scenes and their file, prompts.jsonl."""

import collections
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from generation.prompts.words import GRAMMAR
from gvvad_jax.command import UserError
from gvvad_jax.store.files import write_atomically

CLASSES = tuple(GRAMMAR)
TEMPLATE_VERSION = 1
# File systems take names of 255; the clips' files add up to 23, while they are written.
_ID_BYTES = 230


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


def save_descriptions(path: str | os.PathLike, descriptions: Sequence[Description]) -> None:
    """Writes a prompts.jsonl, whole or not at all."""
    lines = [json.dumps(description.to_json()) + "\n" for description in descriptions]
    pathlib.Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines).encode())


def load_descriptions(path: str | os.PathLike) -> list[Description]:
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
