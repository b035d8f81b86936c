"""decisions.jsonl: the filter's decision about each generated video, with its scores.

It has one line per video. Beside it, NAME.thresholds.json holds the rules and the scores of the
real videos from which they come. The two files suffice to decide again.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from generation.filter.evidence import Evidence
from generation.filter.rules import DUPLICATE
from gvvad_jax.command import UserError
from gvvad_jax.store import digests, files

if TYPE_CHECKING:
    from generation.filter.deciding import FilterOptions

_REMEDY = "make it with gvvad filter"


@dataclasses.dataclass(frozen=True)
class Decision:
    """The filter's decision about one generated video.

    Attributes:
      id: the video's id.
      keep: whether to train on it.
      reasons: reasons to drop it; empty if it is kept.
      scores: all scores.
      label: 1 abnormal, 0 normal; None if unknown.
      badness: doublings beyond the bounds of the worst rule, negative inside; None if there is no
        rule or no score.
      near: cosines by id of similar videos of the same label.
    """

    id: str
    keep: bool
    reasons: tuple[str, ...] = ()
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    label: int | None = None
    badness: float | None = None
    near: Mapping[str, float] = dataclasses.field(default_factory=dict)


def thresholds_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns the path of the thresholds that belong to a file of decisions."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.thresholds.json")


def save_decisions(
    path: str | os.PathLike,
    decisions: Iterable[Decision],
    evidence: Evidence | None = None,
    options: "FilterOptions | None" = None,
) -> None:
    """Writes decisions.jsonl completely or not at all, and its thresholds.

    Args:
      path: path of the decisions; see `thresholds_path` for the other file.
      decisions: result of deciding.decide.
      evidence, options: basis of the decisions; without them no thresholds are written.
    """
    decisions = list(decisions)
    lines = [json.dumps(dataclasses.asdict(decision), sort_keys=True) for decision in decisions]
    if evidence is not None and options is not None:
        thresholds = {
            "options": dataclasses.asdict(options),
            "rules": [rule.to_json() for rule in evidence.rules(options.preset)],
            "duplicate": DUPLICATE,
            "not_judged": dict(evidence.not_judged),
            "scores": _digest(decisions),
            "real": {name: sorted(scores) for name, scores in evidence.real.items()},
        }
        # On one line, unlike files.write_json: the scores of real videos are long lists.
        content = json.dumps(thresholds, sort_keys=True) + "\n"
        files.write_atomically(thresholds_path(path), content.encode())
    files.write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of decisions.jsonl, see Decision."""

    id: str
    keep: bool
    label: Literal[0, 1]
    reasons: list[str] = []
    scores: dict[str, float] = {}
    badness: float | None = None
    near: dict[str, float] = {}


class _Thresholds(msgspec.Struct):
    """The values of NAME.thresholds.json with which one decides again.

    Attributes:
      real, not_judged: see Evidence.
      scores: digest of the decisions' scores; empty in files of version 0.2.0.
    """

    real: dict[str, list[float]]
    not_judged: dict[str, str]
    scores: str = ""


def load_decisions(path: str | os.PathLike) -> tuple[list[Decision], Evidence]:
    """Reads the files of `save_decisions`: the decisions, and the evidence to decide again.

    Raises:
      UserError: a file is missing or was not written by `save_decisions`, a video is decided twice,
        or the thresholds are of other decisions.
    """
    decisions = _read_decisions(path)
    beside = thresholds_path(path)
    thresholds = _read_thresholds(beside)
    if thresholds.scores not in ("", _digest(decisions)):
        raise UserError(
            f"{beside}: expected the thresholds of {path}, found those of other scores; {_REMEDY}"
        )
    evidence = Evidence(
        {d.id: d.scores for d in decisions},
        {d.id: d.label for d in decisions},
        {d.id: d.near for d in decisions if d.near},
        thresholds.real,
        thresholds.not_judged,
    )
    return decisions, evidence


def require_own(path: str | os.PathLike) -> None:
    """Raises UserError if writing decisions to `path` would replace other files than decisions.

    Damaged decisions may be replaced as long as their thresholds are whole, and the other way
    round.
    """
    beside = thresholds_path(path)
    existing = [each for each in (pathlib.Path(path), beside) if os.path.lexists(each)]
    # Nothing is lost with a file of nothing.
    if not any(each.stat().st_size or not each.is_file() for each in existing if each.exists()):
        return
    for read, each in ((_read_decisions, path), (_read_thresholds, beside)):
        with contextlib.suppress(UserError):
            read(each)
            return
    raise UserError(
        f"--out={path}: expected a new file or decisions of the filter, found {existing[0].name}, "
        "which is something else; give another --out"
    )


def _read_decisions(path: str | os.PathLike) -> list[Decision]:
    lines = files.read_lines(path, _Line, "a decision of the filter", _REMEDY)
    line_by_id: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        first = line_by_id.setdefault(line.id, number)
        if first != number:
            raise UserError(
                f"{path}: expected each video once, found {line.id!r} decided on line {first} and "
                f"on line {number}; remove one of the two"
            )
    fields = [msgspec.structs.asdict(line) for line in lines]
    return [Decision(**(each | {"reasons": tuple(each["reasons"])})) for each in fields]


def _read_thresholds(path: pathlib.Path) -> _Thresholds:
    return files.read_json_as(path, _Thresholds, "the filter's thresholds", _REMEDY)


def _digest(decisions: Iterable[Decision]) -> str:
    """Returns the digest of everything on which one decides again."""
    return digests.of_json([[d.id, d.label, dict(d.scores), dict(d.near)] for d in decisions])
