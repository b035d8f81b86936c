"""The video filter: which generated clips are sound enough to train on. Its pixel stages.

    python -m generation.filter --store=SYN --reference_store=REAL --preset=strict \\
        --out=decisions.jsonl

Encoding measures each video (`pixel_statistics`) and keeps the measures in its row; deciding is a
pure function of them, so it is free to repeat. Where a defect is one in any clip (frozen, cut,
black) its bound is absolute; where it depends on the cameras (motion, sharpness, flicker) it comes
from quantiles of the real training videos. Pixels can't tell that a clip shows something else
than its description says: that takes the stages that look at features.
"""

import collections
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from absl import flags

from gvvad_jax import store
from gvvad_jax.store import UserError, run_command, write_atomically

PRESETS = ("none", "light", "strict")

# Every measure is taken at this width, so that stores of different sizes compare.
_WIDTH = 160
# Flow and sharpness of so many frames, evenly spread, say enough about a clip.
_SAMPLES = 48
_CELLS = (6, 8)
# Standard deviation, in grey levels, under which a picture shows nothing.
_FLAT = 3.0


def pixel_statistics(
    frames_FxHxWx3: np.ndarray, fps: float, declared_frames: int = 0
) -> dict[str, float]:
    """Measures of one clip's pixels.

    Args:
      frames_FxHxWx3: RGB uint8, at least one frame.
      fps: frames per second.
      declared_frames: what the container promised, 0 where it doesn't say.

    Returns:
      decoded_share: decoded over declared frames, 1 where none are declared.
      black_share: share of frames in which next to nothing is brighter than black.
      blank_share: share of frames that are one flat colour.
      frozen_share: share of steps between frames in which no part of the picture changes: by less
        than one grey level in its busiest cell, brightness and contrast of the whole apart.
      cut_ratio: largest change (1 - correlation of two successive frames) over the largest of the
        three before and the three after. A cut stands alone; a flash goes as it came, and shaking
        or speed lasts.
      cut_change: the same change measured on structure without slow shading, so that a lamp
        switched on, which stands alone too, changes little.
      flicker: median departure of a frame's mean grey from its two neighbours'. A model's flicker
        is in most frames; gunshots are in some, and dropping them would drop a class.
      motion: mean flow of the fastest 5 % of pixels, in percent of the width per second.
      camera: median flow of all pixels, in the same unit; a fixed camera has next to none.
      sharpness: median variance of the Laplacian.
    """
    small_FxHxW = np.stack([_small_grey(frame) for frame in frames_FxHxWx3])
    num_frames = len(small_FxHxW)
    flat_FxP = small_FxHxW.reshape(num_frames, -1)
    steps = [_change(a, b) for a, b in itertools.pairwise(small_FxHxW)] or [(0.0, 1.0)]
    change_S, busiest_S = np.array(steps).T
    cut = int(np.argmax(change_S))
    around = np.concatenate([change_S[max(0, cut - 3) : cut], change_S[cut + 1 : cut + 4]])
    motion, camera = _flow(small_FxHxW, fps)
    sampled = np.unique(np.linspace(0, num_frames - 1, _SAMPLES).round().astype(int))
    sharpness = [cv2.Laplacian(small_FxHxW[i], cv2.CV_32F).var() for i in sampled]
    statistics = {
        "decoded_share": num_frames / declared_frames if declared_frames else 1.0,
        "black_share": np.mean(np.percentile(flat_FxP, 99, axis=1) < 16),
        "blank_share": np.mean(flat_FxP.std(axis=1) < _FLAT),
        "frozen_share": np.mean(busiest_S < 1.0),
        "cut_ratio": change_S[cut] / max(around.max(initial=0.0), 0.01),
        "cut_change": _structural_change(small_FxHxW[cut : cut + 2]),
        "flicker": _flicker(flat_FxP.mean(axis=1)),
        "motion": motion,
        "camera": camera,
        "sharpness": np.median(sharpness),
    }
    return {name: round(float(value), 4) for name, value in statistics.items()}


def _small_grey(frame_HxWx3: np.ndarray) -> np.ndarray:
    height, width = frame_HxWx3.shape[:2]
    if width != _WIDTH:
        size = (_WIDTH, max(32, round(height * _WIDTH / width)))
        frame_HxWx3 = cv2.resize(frame_HxWx3, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame_HxWx3, cv2.COLOR_RGB2GRAY)


def _change(
    before_HxW: np.ndarray, after_HxW: np.ndarray, flat: float = _FLAT
) -> tuple[float, float]:
    """(1 - correlation, mean change of the busiest cell), brightness and contrast apart."""
    before_HxW = before_HxW - np.float32(before_HxW.mean())
    after_HxW = after_HxW - np.float32(after_HxW.mean())
    product, square = float(np.vdot(before_HxW, after_HxW)), float(np.vdot(before_HxW, before_HxW))
    residual_HxW = np.abs(after_HxW - product / max(square, 1e-6) * before_HxW)
    cells = cv2.resize(residual_HxW, _CELLS[::-1], interpolation=cv2.INTER_AREA)
    norms = np.sqrt(square * float(np.vdot(after_HxW, after_HxW)))
    # Flat pictures have nothing to correlate.
    is_flat = norms < flat**2 * before_HxW.size
    return 0.0 if is_flat else 1.0 - product / norms, float(cells.max())


def _structural_change(pair_2xHxW: np.ndarray) -> float:
    if len(pair_2xHxW) < 2 or pair_2xHxW.std(axis=(1, 2)).min() < _FLAT:
        return 0.0
    fine, coarse = (
        [cv2.GaussianBlur(grey.astype(np.float32), (0, 0), sigma) for grey in pair_2xHxW]
        for sigma in (1, 6)
    )
    return _change(fine[0] - coarse[0], fine[1] - coarse[1], flat=0.1)[0]


def _flicker(brightness_F: np.ndarray) -> float:
    if len(brightness_F) < 3:
        return 0.0
    return float(np.median(np.abs(brightness_F[1:-1] - (brightness_F[:-2] + brightness_F[2:]) / 2)))


def _flow(small_FxHxW: np.ndarray, fps: float) -> tuple[float, float]:
    """(fastest 5 %, median) of the flow, in percent of the width per second."""
    if len(small_FxHxW) < 2:
        return 0.0, 0.0
    dense = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    first_frames = np.unique(np.linspace(0, len(small_FxHxW) - 2, _SAMPLES).round().astype(int))
    fastest, median = [], []
    for i in first_frames:
        flow_HxWx2 = dense.calc(small_FxHxW[i], small_FxHxW[i + 1], None)
        speed_P = np.sort(np.hypot(flow_HxWx2[..., 0], flow_HxWx2[..., 1]), axis=None)
        fastest.append(speed_P[int(0.95 * len(speed_P)) :].mean())
        median.append(speed_P[len(speed_P) // 2])
    unit = 100.0 * fps / small_FxHxW.shape[2]
    return float(np.mean(fastest)) * unit, float(np.mean(median)) * unit


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the filter says of one clip.

    Attributes:
      id: the clip's id.
      keep: whether to train on it.
      reasons: why not; empty where it is kept.
      scores: every measure that was looked at.
    """

    id: str
    keep: bool
    reasons: tuple[str, ...] = ()
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A clip fails for `reason` when all of its measures lie outside their [low, high]."""

    reason: str
    bounds: Mapping[str, tuple[float, float]]

    def fails(self, statistics: Mapping[str, float]) -> bool:
        # "not within" and not "outside": a measure that isn't a number fails.
        return all(not low <= statistics[name] <= high for name, (low, high) in self.bounds.items())


def rules(preset: str, reference: Sequence[Mapping[str, float]] = ()) -> list[Rule]:
    """The rules of a preset.

    `light` drops what is broken beyond doubt. `strict` bounds the same defects more tightly and
    drops what lies far from the real videos: beyond a multiple of their 5 % or 95 % quantile,
    since generated clips are smoother and paced otherwise without being defective.

    Args:
      preset: none, light or strict.
      reference: pixel statistics of real training videos, for strict.

    Raises:
      UserError: an unknown preset, or strict without a reference.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset: expected {', '.join(PRESETS)}, found {preset!r}")
    if preset == "none":
        return []
    light = preset == "light"
    share = (0.0, 0.3 if light else 0.15)
    absolute = [
        Rule("integrity", {"decoded_share": (0.5 if light else 0.98, math.inf)}),
        Rule("black", {"black_share": share}),
        Rule("blank", {"blank_share": share}),
        Rule("frozen", {"frozen_share": share}),
        Rule("cut", {"cut_ratio": (0, 2), "cut_change": (0, 0.75 if light else 0.65)}),
    ]
    if light:
        return absolute
    if not reference:
        raise UserError(
            "--reference_store: expected the store of the real training videos for "
            "--preset=strict, found none; give it or use --preset=light"
        )
    low, high = (
        {name: float(np.quantile([row[name] for row in reference], q)) for name in reference[0]}
        for q in (0.05, 0.95)
    )
    # The numbers inside max are what is no defect (or always one) whatever the reference.
    return [
        *absolute,
        Rule("static", {"motion": (max(0.3, low["motion"] / 10), math.inf)}),
        Rule("motion", {"motion": (0, max(50.0, 3 * high["motion"]))}),
        Rule("camera", {"camera": (0, max(8.0, 3 * high["camera"]))}),
        Rule("flicker", {"flicker": (0, max(4.0, 3 * high["flicker"]))}),
        Rule("blur", {"sharpness": (low["sharpness"] / 25, math.inf)}),
        Rule("noise", {"sharpness": (0, 20 * high["sharpness"])}),
    ]


def decide(
    statistics: Mapping[str, Mapping[str, float]],
    reference: Sequence[Mapping[str, float]] = (),
    preset: str = "strict",
) -> list[Decision]:
    """Judges clips by their pixel statistics.

    Args:
      statistics: of the clips to judge, by id.
      reference: of real training videos; strict needs it.
      preset: none, light or strict.

    Returns:
      A decision a clip, sorted by id; the clips don't influence each other.

    Raises:
      UserError: see `rules`.
    """
    applied = rules(preset, reference)
    decisions = []
    for clip in sorted(statistics):
        reasons = tuple(rule.reason for rule in applied if rule.fails(statistics[clip]))
        decisions.append(Decision(clip, not reasons, reasons, dict(statistics[clip])))
    return decisions


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
        Decision(d.id, d.id not in dropped, ("random",) if d.id in dropped else (), d.scores)
        for d in decisions
    ]


def save(path: str | os.PathLike, decisions: Iterable[Decision]) -> None:
    """Writes decisions.jsonl, whole or not at all."""
    lines = [json.dumps(dataclasses.asdict(decision), sort_keys=True) for decision in decisions]
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def summary(decisions: Sequence[Decision], labels: Mapping[str, int]) -> dict[str, Any]:
    """Counts of kept and dropped clips, by reason and by label."""

    def count(of: Sequence[Decision]) -> dict[str, Any]:
        kept = sum(decision.keep for decision in of)
        reasons = collections.Counter(reason for decision in of for reason in decision.reasons)
        return {"kept": kept, "dropped": len(of) - kept, "reasons": dict(sorted(reasons.items()))}

    by_label = {
        name: count([d for d in decisions if labels[d.id] == label])
        for label, name in enumerate(("normal", "abnormal"))
    }
    return count(decisions) | {"by_label": by_label}


def judge(
    judged: store.Store, reference_store: store.Store | None, preset: str
) -> tuple[list[Decision], dict[str, int]]:
    """Decisions on a store's clips, and their labels.

    The reference is the training split of the real videos in `reference_store`. Clips that
    couldn't be encoded are dropped as "unreadable".

    Raises:
      UserError: see `rules`; a row without pixel statistics.
    """
    reference = []
    if reference_store is not None:
        reference = [
            _statistics(reference_store, row)
            for row in reference_store.rows.values()
            if row.source == "real" and reference_store.videos.videos[row.id].split == "train"
        ]
    statistics = {row.id: _statistics(judged, row) for row in judged.rows.values()}
    decisions = decide(statistics, reference, preset)
    decisions += [Decision(clip, False, ("unreadable",)) for clip in judged.quarantined]
    labels = {decision.id: judged.videos.videos[decision.id].label for decision in decisions}
    return sorted(decisions, key=lambda decision: decision.id), labels


def _statistics(opened: store.Store, row: store.Row) -> Mapping[str, float]:
    if row.pixel_statistics is None:
        raise UserError(
            f"{opened.path}: video {row.id!r}: expected pixel statistics, found none; "
            "encode it with python -m generation.encode (imported features have none)"
        )
    return row.pixel_statistics


def main(_) -> None:
    if not _STORE.value or not _OUT.value:
        raise UserError("--store, --out: expected a store and a file to write; one is missing")
    reference = store.Store(_REFERENCE.value) if _REFERENCE.value else None
    decisions, labels = judge(store.Store(_STORE.value), reference, _PRESET.value)
    save(_OUT.value, decisions)
    print(json.dumps({"out": _OUT.value, "preset": _PRESET.value} | summary(decisions, labels)))


if __name__ == "__main__":
    _STORE = flags.DEFINE_string("store", None, "Store of the clips to judge.")
    _REFERENCE = flags.DEFINE_string("reference_store", None, "Store of the real videos.")
    _PRESET = flags.DEFINE_enum("preset", "strict", PRESETS, "How much to ask of a clip.")
    _OUT = flags.DEFINE_string("out", None, "decisions.jsonl to write.")
    run_command(main, usage=__doc__)
