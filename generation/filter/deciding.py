"""Decides which generated videos are kept, as a pure function of their scores."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from generation.filter.decisions import Decision
from generation.filter.evidence import Evidence
from generation.filter.rules import DUPLICATE, FURTHEST, PRESETS, preset_rules
from gvvad_jax.command import UserError, check, group

FILTER = group("Filter")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """How to decide.

    With a target rate, that share of the videos of a label is kept: those furthest inside the
    preset's bounds or least outside. Videos that `light` drops and near-duplicates of kept videos
    are never kept.
    """

    preset: str = FILTER("strict", "Preset of rules.", choices=PRESETS, free=True)
    keep_normal: float | None = FILTER(
        None,
        "Share of normal videos to keep, the best ones (default: those within the preset's "
        "bounds).",
        low=0,
        high=1,
        free=True,
    )
    keep_abnormal: float | None = FILTER(
        None,
        "Share of abnormal videos to keep, the best ones (default: those within the preset's "
        "bounds).",
        low=0,
        high=1,
        free=True,
    )

    def __post_init__(self):
        check(self)
        if self.preset == "none" and self.rates:
            raise UserError(
                "--keep_normal, --keep_abnormal: expected a preset that orders videos, found "
                "--preset=none; give light or strict"
            )

    @property
    def rates(self) -> dict[int, float]:
        """Target rates by label, for labels that have one."""
        rates = {0: self.keep_normal, 1: self.keep_abnormal}
        return {label: rate for label, rate in rates.items() if rate is not None}


@dataclasses.dataclass(frozen=True, order=True)
class _Place:
    """A video's place in the ranking: by its worst rule, then the mean of all, then its id.

    Attributes:
      badness: distance beyond the worst rule's bounds.
      mean: mean distance of all rules.
      id: the video's id.
      reasons: reasons to drop it.
      hopeless: whether it must not be kept whatever the target rate is.
    """

    badness: float
    mean: float
    id: str
    reasons: tuple[str, ...] = dataclasses.field(compare=False)
    hopeless: bool = dataclasses.field(compare=False)


def decide(evidence: Evidence, options: FilterOptions | str = "strict") -> list[Decision]:
    """Decides about videos by their scores; the same scores give the same decisions.

    Args:
      evidence: result of evidence.gather or decisions.load_decisions.
      options: how to decide, or the name of a preset.

    Returns:
      One decision per video, sorted by id.

    Raises:
      UserError: --preset=strict without real videos.
    """
    if isinstance(options, str):
        options = FilterOptions(preset=options)
    rules, light_rules = evidence.rules(options.preset), preset_rules("light", {}, {})
    places = []
    for video_id, scores in evidence.scores.items():
        distances = [rule.distance(scores) for rule in rules] if scores else []
        failed = dict.fromkeys(r.reason for r, d in zip(rules, distances, strict=False) if d > 0)
        worst = max(distances, default=FURTHEST if not scores else 0.0)
        hopeless = not scores or any(rule.distance(scores) > 0 for rule in light_rules)
        reasons = tuple(failed) if scores else ("unreadable",)
        mean = float(np.mean(distances)) if distances else 0.0
        places.append(_Place(worst, mean, video_id, reasons, hopeless))
    dropped = {}
    for label in sorted(set(evidence.labels.values())):
        ranking = sorted(place for place in places if evidence.labels[place.id] == label)
        dropped |= _dropped(ranking, evidence.near, options, options.rates.get(label))
    return [
        Decision(
            place.id,
            place.id not in dropped,
            dropped.get(place.id, ()),
            dict(evidence.scores[place.id]),
            evidence.labels[place.id],
            round(place.badness, 4) if rules and evidence.scores[place.id] else None,
            dict(evidence.near.get(place.id, {})),
        )
        for place in sorted(places, key=lambda place: place.id)
    ]


def _dropped(
    ranking: Sequence[_Place],
    near: Mapping[str, Mapping[str, float]],
    options: FilterOptions,
    rate: float | None,
) -> dict[str, tuple[str, ...]]:
    """Returns the reasons to drop videos of one label, by id; `ranking` starts with the best."""
    wanted = len(ranking) if rate is None else round(rate * len(ranking))
    kept: set[str] = set()
    dropped: dict[str, tuple[str, ...]] = {}
    for place in ranking:
        reasons = place.reasons
        if rate is not None and not place.hopeless:
            reasons = ()
        if (options.preset == "strict" or rate is not None) and any(
            other in kept and cosine >= DUPLICATE
            for other, cosine in near.get(place.id, {}).items()
        ):
            reasons = (*place.reasons, "duplicate")
        if not reasons and len(kept) >= wanted:
            reasons = place.reasons or ("rank",)
        if reasons:
            dropped[place.id] = reasons
        else:
            kept.add(place.id)
    return dropped


def nothing_kept(
    decisions: Sequence[Decision], evidence: Evidence, options: FilterOptions
) -> list[str]:
    """Says where the filter keeps no video at all, or none of a label: why, and what to do.

    Args:
      decisions: result of `decide`.
      evidence: what was decided on.
      options: how it was decided.

    Returns:
      One line for each label that has videos but none that is kept; a single line if nothing is.
    """
    by_label: dict[int, list[Decision]] = {}
    for decision in decisions:
        by_label.setdefault(evidence.labels[decision.id], []).append(decision)
    none_of = {n: d for n, d in sorted(by_label.items()) if not any(each.keep for each in d)}
    light_ids = {decision.id for decision in decide(evidence, "light") if decision.keep}
    if len(none_of) == len(by_label) and not options.rates:
        return [_why_none("", decisions, light_ids)] if decisions else []
    return [
        _why_none(("normal ", "abnormal ")[label], members, light_ids, options.rates.get(label))
        for label, members in none_of.items()
    ]


def _why_none(
    label: str, members: Sequence[Decision], light_ids: set[str], rate: float | None = None
) -> str:
    line = f"the filter keeps none of {len(members)} {label}videos"
    flags = f"--keep_{label.strip()}" if label else "--keep_normal and --keep_abnormal"
    if rate is not None and not round(rate * len(members)):
        return f"{line}: {flags}={rate:g} of them is less than one; give a larger share"
    reasons = collections.Counter(reason for each in members for reason in each.reasons)
    reason, count = reasons.most_common(1)[0]
    num_light = len(light_ids & {each.id for each in members})
    remedy = (
        f"--preset=light keeps {num_light}, {flags} the best ones"
        if num_light
        else "they are certainly broken: look at some, and generate others"
    )
    return f"{line}, most often for {reason!r} ({count}); {remedy}"


def random_drop(
    decisions: Sequence[Decision], labels: Mapping[str, int], seed: int
) -> list[Decision]:
    """Drops as many videos of each label as `decisions` does, but at random: a control.

    Args:
      decisions: the filter's decisions.
      labels: labels by video id.
      seed: random seed.

    Returns:
      Decisions about the same videos in the same order, with the reason "random".
    """
    dropped = set()
    for label in sorted(set(labels.values())):
        ids = sorted(d.id for d in decisions if labels[d.id] == label)
        count = sum(not d.keep for d in decisions if labels[d.id] == label)
        rng = np.random.default_rng([seed, label])
        dropped.update(rng.permutation(ids)[:count].tolist())
    return [
        dataclasses.replace(
            d, keep=d.id not in dropped, reasons=("random",) if d.id in dropped else ()
        )
        for d in decisions
    ]


def summary(
    decisions: Sequence[Decision], labels: Mapping[str, int], evidence: Evidence | None = None
) -> dict[str, Any]:
    """Counts kept and dropped videos by reason and by label, and lists missing scores."""

    def count(members: Sequence[Decision]) -> dict[str, Any]:
        kept = sum(decision.keep for decision in members)
        reasons = collections.Counter(reason for decision in members for reason in decision.reasons)
        return {
            "kept": kept,
            "dropped": len(members) - kept,
            "reasons": dict(sorted(reasons.items())),
        }

    by_label = {
        name: count([d for d in decisions if labels[d.id] == label])
        for label, name in enumerate(("normal", "abnormal"))
    }
    counts = count(decisions) | {"by_label": by_label}
    return counts if evidence is None else counts | {"not_judged": dict(evidence.not_judged)}
