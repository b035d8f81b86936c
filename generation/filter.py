"""The video filter: which generated clips are sound enough to train on.

    python -m generation.filter --store=SYN --reference_store=REAL --prompts=prompts.jsonl \\
        --preset=strict --out=decisions.jsonl
    python -m generation.filter --scores=decisions.jsonl --preset=light --out=light.jsonl
    python -m generation.filter ... --keep_normal=0.62 --keep_abnormal=0.39

Three stages: integrity (what could be decoded), pixels (generation/pixels.py, measured while
encoding) and features (generation/clip_scores.py). Deciding is a pure function of the scores, which
are all stored, with what real videos have beside them in OUT.thresholds.json: it is free to repeat,
without models, videos or stores. What couldn't be judged is named. Pixels, and features without
CLIP's text, can't tell that a clip shows something else than its description says.
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

from generation import clip_scores, filter_rules
from generation.decisions import Decision, Evidence, load, save
from generation.filter_rules import PRESETS
from gvvad_jax import store
from gvvad_jax.options import check, define_flags, from_flags, option
from gvvad_jax.store import UserError, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
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
    judged: store.Store,
    real: store.Store | None = None,
    *,
    phrases: Mapping[str, str] | None = None,
    text_encoder: clip_scores.TextEncoder | None = None,
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
    features = clip_scores.feature_scores(
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
    judged = store.Store(judged_path)
    real = store.Store(real_path) if real_path else None
    phrases, text_encoder = None, None
    if prompts_path:
        from generation import prompts

        phrases = {record.id: record.phrase for record in prompts.load(prompts_path)}
        if clip_scores.is_clip(judged.manifest):
            text_encoder = clip_scores.clip_text_encoder(judged.manifest, clip_weights)
    return gather(judged, real, phrases=phrases, text_encoder=text_encoder)


def _statistics(opened: store.Store, row: store.Row) -> Mapping[str, float]:
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


def decide(evidence: Evidence, options: Options | str = "strict") -> list[Decision]:
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
        options = Options(preset=options)
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
    places: Sequence[_Place], near, options: Options, rate: float | None
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


def main(_) -> None:
    if not _OUT.value or bool(_STORE.value) == bool(_SCORES.value):
        raise UserError(
            "--out, --store, --scores: expected a file to write, and a store to judge or earlier "
            "decisions; give --out and one of the two others"
        )
    if _SCORES.value and (_REFERENCE.value or _PROMPTS.value or _WEIGHTS.value):
        raise UserError(
            "--scores: expected no --reference_store, --prompts or --clip_weights beside it, found "
            "one: what they say is in the scores; leave them out, or give --store"
        )
    options = from_flags(Options)
    pathlib.Path(_OUT.value).resolve().parent.mkdir(parents=True, exist_ok=True)
    if _SCORES.value:
        _, evidence = load(_SCORES.value)
    else:
        evidence = evidence_of(_STORE.value, _REFERENCE.value, _PROMPTS.value, _WEIGHTS.value)
    decisions = decide(evidence, options)
    for name, why in evidence.not_judged.items():
        print(f"not judged: {name}: {why}", file=sys.stderr)
    save(_OUT.value, decisions, evidence, options)
    counts = summary(decisions, evidence.labels, evidence)
    print(json.dumps({"out": _OUT.value, "preset": options.preset} | counts))


if __name__ == "__main__":
    _STORE = flags.DEFINE_string("store", None, "Store of the clips to judge.")
    _SCORES = flags.DEFINE_string("scores", None, "Earlier decisions, to decide on anew.")
    _REFERENCE = flags.DEFINE_string("reference_store", None, "Store of the real videos.")
    _PROMPTS = flags.DEFINE_string("prompts", None, "Descriptions, to compare CLIP features with.")
    _WEIGHTS = flags.DEFINE_string("clip_weights", "", "The checkpoint that --store is encoded by.")
    _OUT = flags.DEFINE_string("out", None, "decisions.jsonl to write.")
    define_flags(Options)
    run_command(main, usage=__doc__)
