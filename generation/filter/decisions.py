"""decisions.jsonl: the filter's decision about each generated video, with its scores.

It has one line per video. Beside it, NAME.thresholds.json holds the rules and the scores of the
real videos from which they come. The two files suffice to decide again.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from generation.filter.evidence import Evidence
from generation.filter.rules import DUPLICATE
from gvvad_jax.command import UserError
from gvvad_jax.store import files

if TYPE_CHECKING:
    from generation.filter.deciding import FilterOptions

_REMEDY = "make it with python -m generation.filter"


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
    lines = [json.dumps(dataclasses.asdict(decision), sort_keys=True) for decision in decisions]
    if evidence is not None and options is not None:
        thresholds = {
            "options": dataclasses.asdict(options),
            "rules": [rule.to_json() for rule in evidence.rules(options.preset)],
            "duplicate": DUPLICATE,
            "not_judged": dict(evidence.not_judged),
            "real": {name: sorted(scores) for name, scores in evidence.real.items()},
        }
        # On one line, unlike files.write_json: the scores of real videos are long lists.
        content = json.dumps(thresholds, sort_keys=True) + "\n"
        files.write_atomically(thresholds_path(path), content.encode())
    files.write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def load_decisions(path: str | os.PathLike) -> tuple[list[Decision], Evidence]:
    """Reads the files of `save_decisions`: the decisions, and the evidence to decide again.

    Raises:
      UserError: a file is missing or was not written by `save_decisions`.
    """
    decisions = files.read_lines(path, _parse, "a decision of the filter", _REMEDY)
    beside = files.read_json(thresholds_path(path))
    real = beside.get("real") if isinstance(beside, dict) else None
    if not isinstance(real, dict) or not isinstance(beside.get("not_judged"), dict):
        raise UserError(
            f"{thresholds_path(path)}: expected the filter's thresholds, found something else; "
            + _REMEDY
        )
    evidence = Evidence(
        {d.id: d.scores for d in decisions},
        {d.id: d.label for d in decisions},
        {d.id: d.near for d in decisions if d.near},
        real,
        beside["not_judged"],
    )
    return decisions, evidence


def _parse(content: Any) -> Decision:
    decision = Decision(**content)
    identified = isinstance(decision.id, str) and isinstance(decision.keep, bool)
    if not identified or decision.label not in (0, 1):
        raise ValueError("expected an id, keep, and a label 0 or 1")
    for numbers in (decision.scores, decision.near):
        if not isinstance(numbers, dict) or not all(
            isinstance(number, (int, float)) for number in numbers.values()
        ):
            raise ValueError("expected numbers by name")
    if not all(isinstance(reason, str) for reason in decision.reasons):
        raise ValueError("expected reasons")
    return dataclasses.replace(decision, reasons=tuple(decision.reasons))
