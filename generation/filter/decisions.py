"""decisions.jsonl: what the filter says of each clip, and what it says it by.

A line a clip, with all of its scores; beside it, in <name>.thresholds.json, the rules and the
scores of the real videos that they come from. Together they are all that deciding anew needs.
"""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from generation.filter import rules as filter_rules
from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_json, write_atomically


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the filter says of one clip.

    Attributes:
      id: the clip's id.
      keep: whether to train on it.
      reasons: why not; empty where it is kept.
      scores: everything that was measured.
      label: 1 abnormal, 0 normal, where it is known.
      badness: doublings beyond the bounds of the worst rule, negative inside; None where there is
        no rule or no score.
      near: cosine by id of clips of the same label that it resembles.
    """

    id: str
    keep: bool
    reasons: tuple[str, ...] = ()
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    label: int | None = None
    badness: float | None = None
    near: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that deciding looks at.

    Attributes:
      scores: by name, by clip id; {} for a clip that couldn't be encoded.
      labels: by clip id.
      near: cosine by other id, by clip id.
      real: scores of the real training videos, by name.
      not_judged: why, by score that couldn't be computed.
    """

    scores: Mapping[str, Mapping[str, float]]
    labels: Mapping[str, int]
    near: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    real: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    not_judged: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def rules(self, preset: str) -> list[filter_rules.Rule]:
        """The preset's rules for these clips; raises UserError, see filter_rules.rules."""
        clips = collections.defaultdict(list)
        for scores in self.scores.values():
            for name, score in scores.items():
                clips[name].append(score)
        return filter_rules.rules(preset, self.real, clips)


def thresholds_path(path: str | os.PathLike) -> pathlib.Path:
    """Where the thresholds of a decisions.jsonl lie: beside it, whatever it is called."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.thresholds.json")


def save_decisions(
    path: str | os.PathLike,
    decisions: Iterable[Decision],
    evidence: Evidence | None = None,
    options: Any = None,
) -> None:
    """Writes decisions.jsonl, whole or not at all, and what they were decided by.

    Args:
      path: of the decisions; `thresholds_path` goes beside it.
      decisions: see `decide`.
      evidence, options: that they come from, options a dataclass with a preset; without these,
        there are no thresholds to write.
    """
    lines = [json.dumps(dataclasses.asdict(decision), sort_keys=True) for decision in decisions]
    if evidence is not None and options is not None:
        thresholds = {
            "options": dataclasses.asdict(options),
            "rules": [rule.to_json() for rule in evidence.rules(options.preset)],
            "duplicate": filter_rules.DUPLICATE,
            "not_judged": dict(evidence.not_judged),
            "real": {name: sorted(scores) for name, scores in evidence.real.items()},
        }
        content = json.dumps(thresholds, sort_keys=True) + "\n"
        write_atomically(thresholds_path(path), content.encode())
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def load_decisions(path: str | os.PathLike) -> tuple[list[Decision], Evidence]:
    """What `save` wrote: the decisions, and the evidence to decide on anew.

    Raises:
      UserError: a file is missing or isn't `save`'s.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected the filter's decisions, found none ({error})") from error
    decisions = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            decision = Decision(**json.loads(line))
            _check(decision)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path}: line {number}: expected a clip's decision, found {line[:50]!r} "
                f"({error}); make it with python -m generation.filter"
            ) from error
        decisions.append(dataclasses.replace(decision, reasons=tuple(decision.reasons)))
    beside = read_json(thresholds_path(path))
    real = beside.get("real") if isinstance(beside, dict) else None
    if not isinstance(real, dict) or not isinstance(beside.get("not_judged"), dict):
        raise UserError(
            f"{thresholds_path(path)}: expected what the filter decided by, found something else; "
            "make it with python -m generation.filter"
        )
    evidence = Evidence(
        {d.id: d.scores for d in decisions},
        {d.id: d.label for d in decisions},
        {d.id: d.near for d in decisions if d.near},
        beside["real"],
        beside["not_judged"],
    )
    return decisions, evidence


def _check(decision: Decision) -> None:
    known = isinstance(decision.id, str) and isinstance(decision.keep, bool)
    if not known or decision.label not in (0, 1):
        raise ValueError("expected an id, keep, and a label 0 or 1")
    for of in (decision.scores, decision.near):
        if not isinstance(of, dict) or not all(isinstance(v, (int, float)) for v in of.values()):
            raise ValueError("expected numbers by name")
    if not all(isinstance(reason, str) for reason in decision.reasons):
        raise ValueError("expected reasons")
