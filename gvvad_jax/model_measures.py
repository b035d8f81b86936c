"""Measures of a trained detector on the test videos of a store. No JAX."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gvvad_jax import calibration, curves, drift, events, ground_truth, scored
from gvvad_jax.command import UserError
from gvvad_jax.measures import NOT_CALIBRATED, Alignment, MeasureOptions, Measures
from gvvad_jax.scored import Scored
from gvvad_jax.splits import Member, members_of, report_missing
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.reader import Store

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model

# How the two rules are named in what is measured.
BY_TIME = "by time: a frame has the mean score of the snippets that cover its middle"
PUBLISHED = "published: a snippet's score 16 times, labels cut or padded to that"


@dataclasses.dataclass(frozen=True)
class OpenVideos:
    """Videos of a store to measure on.

    Attributes:
      members: those of the split.
      every: all videos of the store.
      path: path of the annotations, for messages.
      missing: number of videos of the split that couldn't be encoded.
    """

    members: Sequence[Member]
    every: Sequence[Member]
    path: str
    missing: int


def open_videos(
    store: Store | str | os.PathLike[str],
    split: str = "test",
    annotated: annotations.Annotations | str | os.PathLike[str] | None = None,
) -> OpenVideos:
    """Opens the videos of one split of a store.

    Args:
      store: the store, or its path.
      split: train, validation or test.
      annotated: a videos.json, or its path, that overrides the one in the store.

    Raises:
      UserError: another type than a store, or no video of the split.
    """
    if isinstance(store, str | os.PathLike):
        store = Store(store)
    if not isinstance(store, Store):
        raise UserError(
            f"store: expected a Store or its path, found {type(store).__name__}; give Store(PATH)"
        )
    if isinstance(annotated, str | os.PathLike):
        annotated = annotations.load(annotated)
    missing = report_missing([store], annotated, split)
    every = members_of(store, annotated)
    members = [member for member in every if member.video.split == split]
    if not members:
        raise UserError(
            f"{annotated.path if annotated else store.path}: expected videos of split {split}, "
            "found none; correct the annotations or give another --split"
        )
    return OpenVideos(members, every, (annotated or store.videos).path, len(missing))


def measure_store(
    model: "Model",
    videos: OpenVideos,
    alarms_per_hour: float | None = None,
    normal_store: str = "",
    options: MeasureOptions | None = None,
    other: "Model | None" = None,
) -> tuple[Scored, Measures]:
    """Scores and measures a model on a store's videos of one split; see `Model.evaluate`."""
    store = videos.members[0].store
    for each in (model, other) if other else (model,):
        each.require(store.manifest, str(store.path))
    if unlabelled := without_frames(videos.members):
        print(f"{videos.path}: no measures of frames: {unlabelled}", file=sys.stderr)
    threshold = calibration.threshold_of(model, videos.every, alarms_per_hour, normal_store)
    if said := calibration.describe(threshold):
        print(said, file=sys.stderr)
    options = options or MeasureOptions()
    test = score_videos(model, videos.members, videos.path, options.alignment)
    measures = _measure(model, test, threshold, options)
    if other:
        against = score_videos(other, videos.members, videos.path, options.alignment)
        measures["comparison"] = scored.compare(test, against, options)
    if videos.missing:
        measures["missing"] = videos.missing
    shifts = {m.video.id: drift.shift(model, m.store.visual(m.video.id)) for m in videos.members}
    if said := drift.describe(model, shifts):
        print(said, file=sys.stderr)
        measures["drift"] = drift.beyond(model, shifts)
    return test, measures


def without_frames(members: Sequence[Member]) -> str | None:
    """Says which abnormal videos have no abnormal_frames; None where all have them."""
    ids = [m.video.id for m in members if m.video.label and m.video.abnormal_frames is None]
    return (
        f"{len(ids)} abnormal videos without abnormal_frames in videos.json, {ids[0]!r} first"
        if ids
        else None
    )


def measure_members(
    model: "Model",
    members: Sequence[Member],
    threshold: events.Threshold | None = None,
    *,
    missing: int = 0,
    path: str = "",
) -> Measures:
    """Measures a model on test videos, by frame, by video and by events.

    Args:
      model: the detector; its config's fidelity chooses the alignment of frames.
      members: the videos. Measures of frames need frame annotations of every abnormal one.
      threshold: the threshold of events (default: the model's).
      missing: number of test videos that couldn't be encoded; noted unless 0.
      path: path of the annotations, for messages.

    Raises:
      UserError: intervals that don't fit their video, or a score that isn't finite.
    """
    measures = _measure(model, score_videos(model, members, path), threshold, MeasureOptions())
    if missing:
        measures["missing"] = missing
    return measures


def _measure(
    model: "Model", test: Scored, threshold: events.Threshold | None, options: MeasureOptions
) -> Measures:
    calibrated = model.calibration
    threshold = threshold or (calibrated.threshold if calibrated else None)
    reasons = {"ece": (calibrated and calibrated.temperature_reason) or NOT_CALIBRATED}
    if not threshold:
        names = ("threshold", "alarms_per_hour", *scored.AT_THRESHOLD)
        reasons |= dict.fromkeys(names, NOT_CALIBRATED)
    return scored.measure(test, options, threshold, reasons)


def score_videos(
    model: "Model", members: Sequence[Member], path: str = "", rule: Alignment = "auto"
) -> Scored:
    """Scores test videos and aligns the scores with their labels, ready to be measured.

    Args:
      model: the detector.
      members: the videos.
      path: path of the annotations, for messages.
      rule: see MeasureOptions.alignment. With "auto" a config's fidelity "reference" takes the
        published rule where alignment.is_published; other videos go by time.

    Raises:
      UserError: intervals that don't fit their video, a score that isn't finite, or snippets that
        the published rule, if asked for, isn't made for.
    """
    unlabelled = without_frames(members)
    truths = {} if unlabelled else ground_truth.frame_truths(members, path)
    snippets = model.score_members(members)
    scores: Mapping[str, np.ndarray] = {}
    labels: Mapping[str, np.ndarray] = {}
    said = None
    if not unlabelled:
        scores, labels, said = align_frames(model, members, snippets, truths, rule)
    return Scored(
        abnormal={m.video.id: bool(m.video.label) for m in members},
        scores=scores,
        labels=labels,
        alignment=said,
        classes={m.video.id: m.video.cls for m in members},
        groups={m.video.id: m.video.group for m in members if m.video.group},
        snippets=snippets,
        times={m.video.id: m.store.times(m.video.id) for m in members},
        intervals=None if unlabelled else {
            m.video.id: [(start / m.row.fps, end / m.row.fps)
                         for start, end in curves.spans(truths[m.video.id])]
            for m in members
        },
        video_scores=model.video_scores(snippets),
        chances=model.calibrated_scores(snippets),
        unlabelled=unlabelled,
    )  # fmt: skip


def align_frames(
    model: "Model",
    members: Sequence[Member],
    snippets: Mapping[str, np.ndarray],
    truths: Mapping[str, np.ndarray],
    rule: Alignment = "auto",
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """Turns snippet scores into the frame scores and labels that are measured, both by id.

    Args:
      model: its config's fidelity chooses the rule "auto".
      members: the videos.
      snippets: snippet scores [T] by id.
      truths: labels [frames] by id.
      rule: see `score_videos`.

    Returns:
      (scores [F] by id, labels [F] by id, the rule in words).
    """
    if rule == "auto":
        published = {m.video.id for m in members
                     if model.config.fidelity == "reference" and _is_published(m)}  # fmt: skip
    else:
        published = {m.video.id for m in members} if rule == "published" else set()
    scores: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    by_time: list[Member] = []
    for member in members:
        video_id, row = member.video.id, member.row
        if video_id in published:
            _require_published(member)
            repeated = alignment.reference_frame_scores(snippets[video_id])
            scores[video_id], labels[video_id] = alignment.reference_align(
                repeated, truths[video_id]
            )
        else:
            by_time.append(member)
            scores[video_id] = alignment.frame_scores(
                snippets[video_id], member.store.times(video_id), row.num_frames, row.fps
            )
            labels[video_id] = truths[video_id]
    ground_truth.report_alignment(by_time)
    said = PUBLISHED if published else BY_TIME
    if published and by_time:
        said = f"{PUBLISHED} ({len(published)} videos); {BY_TIME} ({len(by_time)} videos)"
    return scores, labels, said


def _require_published(member: Member) -> None:
    if not _is_published(member):
        raise UserError(
            f"{member.store.path}: video {member.video.id!r}: expected snippets of 16 frames, "
            f"every 16, at the video's own rate, found {member.row.num_snippets} of "
            f"{member.store.manifest.snippet} in {member.row.num_frames} frames; take "
            "--alignment=time"
        )


def _is_published(member: Member) -> bool:
    manifest, row = member.store.manifest, member.row
    repeat = alignment.REFERENCE_REPEAT
    return alignment.is_published(manifest.snippet, manifest.fps_policy) and alignment.fits(
        row.num_snippets, row.num_frames, repeat, repeat
    )
