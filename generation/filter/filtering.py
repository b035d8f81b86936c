"""Which generated videos are kept: measures gathered from stores, decisions made of them."""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from generation.filter import features as filter_features
from generation.filter import rules as filter_rules
from generation.filter.decisions import Decision, Evidence
from generation.filter.rules import PRESETS
from gvvad_jax.command import UserError, check, option
from gvvad_jax.store.format import Row
from gvvad_jax.store.reader import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """How to decide.

    With a target rate, as many clips of that label are kept as the rate says: those furthest
    inside the preset's bounds or least outside, never one that `light` would drop, or that
    is nearly the same as a kept one.
    """

    preset: str = option("strict", "how much to ask of a clip", choices=PRESETS, free=True)
    keep_normal: float | None = option(
        None,
        "share of normal clips to keep, the best; the preset's bounds unless told",
        low=0,
        high=1,
        free=True,
    )
    keep_abnormal: float | None = option(
        None, "the same of abnormal clips", low=0, high=1, free=True
    )

    def __post_init__(self):
        check(self)
        if self.preset == "none" and self.rates:
            raise UserError(
                "--keep_normal, --keep_abnormal: expected a preset to order clips by, found "
                "--preset=none; give light or strict"
            )

    @property
    def rates(self) -> dict[int, float]:
        """Target by label, where there is one."""
        given = {0: self.keep_normal, 1: self.keep_abnormal}
        return {label: rate for label, rate in given.items() if rate is not None}


def gather(
    judged: Store,
    real: Store | None = None,
    *,
    phrases: Mapping[str, str] | None = None,
    text_encoder: filter_features.TextEncoder | None = None,
) -> Evidence:
    """Everything there is to know of a store's clips.

    Args:
      judged: the clips.
      real: the store of the real videos; those of its training split are what clips compare with.
      phrases: short description by id, from prompts.jsonl.
      text_encoder: of the store's own checkpoint; see clip_scores.clip_text_encoder.

    Raises:
      UserError: a row without pixel statistics, stores of different making.
    """
    real_ids = []
    if real is not None:
        real_ids = [
            row.id
            for row in real.rows.values()
            if row.source == "real" and real.videos.videos[row.id].split == "train"
        ]
    measured = [_statistics(real, real.rows[video]) for video in real_ids]
    features = filter_features.feature_scores(
        judged, real, real_ids, phrases=phrases, text_encoder=text_encoder
    )
    names = sorted({name for scores in measured for name in scores})
    of_real = {name: [scores[name] for scores in measured if name in scores] for name in names}
    scores = {
        row.id: dict(_statistics(judged, row)) | features.clips[row.id]
        for row in judged.rows.values()
    }
    scores |= {clip: {} for clip in judged.quarantined}
    labels = {clip: judged.videos.videos[clip].label for clip in scores}
    return Evidence(scores, labels, features.near, of_real | features.real, features.not_judged)


def evidence_of(
    judged_path: str | os.PathLike,
    real_path: str | os.PathLike | None = None,
    prompts_path: str | os.PathLike | None = None,
    clip_weights: str = "",
) -> Evidence:
    """`gather` from files: stores of the clips and of real videos, and a prompts.jsonl.

    Args:
      judged_path, real_path: the stores.
      prompts_path: what the clips were generated from; their phrases are compared with CLIP's
        features.
      clip_weights: the checkpoint that the stores were encoded with; CLIP-L's unless told.

    Raises:
      UserError: see `gather`; weights of another checkpoint.
    """
    judged = Store(judged_path)
    real = Store(real_path) if real_path else None
    phrases, text_encoder = None, None
    if prompts_path:
        from generation.prompts.descriptions import load_descriptions

        phrases = {record.id: record.phrase for record in load_descriptions(prompts_path)}
        if filter_features.is_clip(judged.manifest):
            text_encoder = filter_features.clip_text_encoder(judged.manifest, clip_weights)
    return gather(judged, real, phrases=phrases, text_encoder=text_encoder)


def _statistics(opened: Store, row: Row) -> Mapping[str, float]:
    if row.pixel_statistics is None:
        raise UserError(
            f"{opened.path}: video {row.id!r}: expected pixel statistics, found none; "
            "encode it with python -m generation.encode (imported features have none)"
        )
    return row.pixel_statistics


@dataclasses.dataclass(frozen=True, order=True)
class _Place:
    """Where a clip stands: worst rule first, then all of them, then its id."""

    badness: float
    mean: float
    id: str
    reasons: tuple[str, ...] = dataclasses.field(compare=False)
    hopeless: bool = dataclasses.field(compare=False)


def decide(evidence: Evidence, options: FilterOptions | str = "strict") -> list[Decision]:
    """Judges clips by their scores; the same scores give the same decisions.

    Args:
      evidence: see `gather` and `load`.
      options: or a preset's name.

    Returns:
      A decision a clip, sorted by id.

    Raises:
      UserError: strict without real videos.
    """
    if isinstance(options, str):
        options = FilterOptions(preset=options)
    rules, beyond_doubt = evidence.rules(options.preset), filter_rules.rules("light", {}, {})
    places = []
    for clip, scores in evidence.scores.items():
        distances = [rule.distance(scores) for rule in rules] if scores else []
        failed = dict.fromkeys(r.reason for r, d in zip(rules, distances, strict=False) if d > 0)
        worst = max(distances, default=filter_rules.FURTHEST if not scores else 0.0)
        hopeless = not scores or any(rule.distance(scores) > 0 for rule in beyond_doubt)
        reasons = tuple(failed) if scores else ("unreadable",)
        mean = float(np.mean(distances)) if distances else 0.0
        places.append(_Place(worst, mean, clip, reasons, hopeless))
    dropped = {}
    for label in sorted(set(evidence.labels.values())):
        of_label = sorted(place for place in places if evidence.labels[place.id] == label)
        dropped |= _dropped(of_label, evidence.near, options, options.rates.get(label))
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
    places: Sequence[_Place], near, options: FilterOptions, rate: float | None
) -> dict[str, tuple[str, ...]]:
    """Reasons of the clips of one label to drop; `places` come best first."""
    wanted = len(places) if rate is None else round(rate * len(places))
    kept: set[str] = set()
    dropped: dict[str, tuple[str, ...]] = {}
    for place in places:
        reasons = place.reasons
        if rate is not None and not place.hopeless:
            reasons = ()
        if (options.preset == "strict" or rate is not None) and any(
            other in kept and cosine >= filter_rules.DUPLICATE
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


def random_drop(
    decisions: Sequence[Decision], labels: Mapping[str, int], seed: int
) -> list[Decision]:
    """Drops as many clips of each label as `decisions` does, but at random: a control.

    Args:
      decisions: the filter's.
      labels: by id.
      seed: 0 or more.

    Returns:
      Decisions on the same clips in the same order, with reason "random".
    """
    dropped = set()
    for label in sorted(set(labels.values())):
        of_label = sorted(d.id for d in decisions if labels[d.id] == label)
        count = sum(not d.keep for d in decisions if labels[d.id] == label)
        rng = np.random.default_rng([seed, label])
        dropped.update(rng.permutation(of_label)[:count].tolist())
    return [
        dataclasses.replace(
            d, keep=d.id not in dropped, reasons=("random",) if d.id in dropped else ()
        )
        for d in decisions
    ]


def summary(
    decisions: Sequence[Decision], labels: Mapping[str, int], evidence: Evidence | None = None
) -> dict[str, Any]:
    """Counts of kept and dropped clips, by reason and by label; and what wasn't judged."""

    def count(of: Sequence[Decision]) -> dict[str, Any]:
        kept = sum(decision.keep for decision in of)
        reasons = collections.Counter(reason for decision in of for reason in decision.reasons)
        return {"kept": kept, "dropped": len(of) - kept, "reasons": dict(sorted(reasons.items()))}

    by_label = {
        name: count([d for d in decisions if labels[d.id] == label])
        for label, name in enumerate(("normal", "abnormal"))
    }
    counts = count(decisions) | {"by_label": by_label}
    return counts if evidence is None else counts | {"not_judged": dict(evidence.not_judged)}
