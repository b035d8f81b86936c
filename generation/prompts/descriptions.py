"""Descriptions of videos to generate, and their file, prompts.jsonl."""

import collections
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from generation.prompts.words import GRAMMAR
from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_lines, require_regular, write_atomically
from gvvad_jax.store.ids import require_ids

CLASSES = tuple(GRAMMAR)
TEMPLATE_VERSION = 2
# File names may have 255 bytes; writing a generated video adds up to 23 to its id.
_ID_BYTES = 230


class Description(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"cls": "class"},
):
    """One line of a prompts.jsonl: what one generated video shows.

    Attributes:
      id: the video's name, e.g. "Fighting-0003-abnormal".
      twin: id of the other video of the pair.
      cls: UCF-Crime class of the pair; JSON calls it "class".
      label: 1 abnormal, 0 normal.
      seed: seed for the generator; twins share it.
      viewpoint, location, subject, event: the four elements.
      description: long text, for a text-to-video model.
      phrase: short text, well under CLIP's 77 tokens.
      model: the model that wrote it; "grammar" is the built-in grammar.
      template_version: version of the texts around the elements.
    """

    id: str
    twin: str
    cls: str
    label: Literal[0, 1]
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    viewpoint: str
    location: str
    subject: str
    event: str
    description: str
    phrase: str
    model: str = "grammar"
    template_version: int = TEMPLATE_VERSION

    def to_json(self) -> dict[str, Any]:
        """Returns the line's content; `from_json` reads it back equal."""
        return msgspec.to_builtins(self)

    @classmethod
    def from_json(cls, entry: Any) -> "Description":
        """Reads a line's content; raises ValueError if a field is missing, unknown or wrong."""
        line = msgspec.convert(entry, cls)
        for name, value in entry.items():
            if isinstance(value, str) and not _is_text(value):
                raise ValueError(f"{name}: half of a surrogate pair, which no text has")
        if not _names_a_file(line.id):
            raise ValueError(f"id: can't name a file of at most {_ID_BYTES} bytes; give another")
        return line


def _is_text(value: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _names_a_file(name: str) -> bool:
    plain = name == os.path.basename(name) and not name.startswith(".")
    return plain and name.isprintable() and 0 < len(name.encode()) <= _ID_BYTES


def require_own(path: str | os.PathLike) -> None:
    """Raises UserError if a file is there that doesn't hold descriptions, and would be lost."""
    if not os.path.lexists(path) or (os.path.isfile(path) and not os.path.getsize(path)):
        return
    require_regular(path, "a file of descriptions, or none")
    try:
        load_descriptions(path)
    except UserError as error:
        raise UserError(
            f"--out: expected an absent file or one of descriptions, found another, which this "
            f"command would overwrite ({error}); give another --out"
        ) from error


def save_descriptions(path: str | os.PathLike, descriptions: Sequence[Description]) -> None:
    """Writes a prompts.jsonl, whole or not at all."""
    lines = [json.dumps(description.to_json()) + "\n" for description in descriptions]
    pathlib.Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines).encode())


def load_descriptions(path: str | os.PathLike) -> list[Description]:
    """Reads and checks a prompts.jsonl.

    Raises:
      UserError: the file is missing or empty, a line is wrong, or an id is repeated.
    """
    descriptions = read_lines(
        path,
        Description.from_json,
        "a description",
        "write the file with gvvad prompts",
    )
    counts = collections.Counter(description.id for description in descriptions)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated or not descriptions:
        raise UserError(
            f"{path}: expected descriptions with different ids, found "
            f"{f'{repeated[0]!r} twice' if repeated else 'none'}; write the file anew"
        )
    require_ids([description.id for description in descriptions], str(path))
    return descriptions


def coverage(descriptions: Sequence[Description]) -> dict[str, dict[str, int]]:
    """Returns how many descriptions have each class, label, viewpoint and location."""
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
    """Prints on standard error how many descriptions have each class, viewpoint and location."""
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
        pairs = [count // 2 for (name, _, _), count in combined.items() if name == cls]
        print(f"  {len(pairs):5d}  {cls}: {min(pairs)} to {max(pairs)}", file=sys.stderr)
