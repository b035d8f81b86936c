"""Measures of a trained detector, or of any scores: by frame, by video, by events. No JAX."""

import dataclasses
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import numpy as np

from gvvad_jax import calibration, events, ground_truth, metrics
from gvvad_jax.command import UserError
from gvvad_jax.splits import Member, members_of, report_missing
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.files import load_arrays
from gvvad_jax.store.reader import Store

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model

# Arrays of S.npz that stand beside each video's frame scores begin with these.
SNIPPET_PREFIXES = ("snippets/", "times/", "fps/")
# So do calibrated video scores; they are single numbers, which tells them from a video "video/1".
VIDEO_PREFIX = "video/"
# Why a model has no temperature and no threshold of its own.
NOT_CALIBRATED = (
    "the run hasn't calibrated this checkpoint: it is older, was imported, or isn't finished"
)
_FRAME_MEASURES = ("auc", "ap", "pr_auc", "auc_abnormal", "far")


class Measures(TypedDict):
    """Measures over a set of test videos; None where a measure isn't defined.

    Those of frames and the rank measures of videos take scores that aren't calibrated.

    Attributes:
      auc: area under the ROC curve of all frames.
      ap: average precision of all frames.
      pr_auc: trapezoid area under the precision-recall curve, which some publications call AP.
      auc_abnormal: `auc` over the frames of abnormal videos only.
      far: false alarm rate, the share of normal frames scored above 0.5.
      per_class: each class's AUC against all normal test videos.
      video_auc, video_ap: AUC and average precision of video scores (top-k mean).
      ece: expected calibration error of calibrated video scores; see calibration.expected_error.
      ece_uncalibrated: the same of the video scores as they are.
      threshold: the threshold of events, and the normal footage that it was set on; the content of
        events.Threshold.
      alarms_per_hour: alarms at that threshold an hour of the normal test videos.
      normal_hours: hours of the normal test videos.
      reasons: why a measure is None, by its name.
      videos: number of videos measured.
      frames: number of frames measured.
      missing: number of test videos that couldn't be encoded; absent where there are none.
      step: step of the checkpoint; present for the best checkpoints of a `Result` only.
    """

    auc: float | None
    ap: float | None
    pr_auc: float | None
    auc_abnormal: float | None
    far: float | None
    per_class: dict[str, float | None]
    video_auc: float | None
    video_ap: float | None
    ece: float | None
    ece_uncalibrated: float | None
    threshold: dict[str, Any] | None
    alarms_per_hour: float | None
    normal_hours: float | None
    reasons: dict[str, str]
    videos: int
    frames: int
    missing: NotRequired[int]
    step: NotRequired[int]


def measure(
    scores: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None] | None = None,
) -> Measures:
    """Measures frame scores of any origin against frame-level ground truth.

    Args:
      scores: one score a frame [F] by video id. Videos without ground truth are left out.
      truth: 0 or 1 for each frame [F] by video id; a video with a 1 is an abnormal one.
      classes: class name of the abnormal videos by id, for `per_class`.

    Returns:
      The measures over all videos of `truth`. Those of video scores and of events are None, because
      they need a detector's snippets.

    Raises:
      UserError: a video without scores, lengths that differ, scores that aren't finite, labels
        other than 0 and 1, or no video; the message names the argument and the video.
    """
    for name, argument in (("scores", scores), ("truth", truth)):
        if not isinstance(argument, Mapping):
            raise UserError(
                f"{name}: expected arrays by video id, found {type(argument).__name__}; give "
                "{id: array}"
            )
    arrays = {video_id: np.asarray(scores_F) for video_id, scores_F in scores.items()}
    labels = {video_id: np.asarray(labels_F) for video_id, labels_F in truth.items()}
    _require_labels(labels, "truth")
    return _measure(arrays, labels, classes or {}, "scores", "truth")


def measure_files(scores_path: str, truth_path: str) -> Measures:
    """Measures S.npz (frame scores by video id) against a videos.json or a G.npz.

    Raises:
      UserError: as `measure` does; the message names the file and the video.
    """
    arrays = load_arrays(scores_path, "an .npz of scores by video id")
    chances = {
        name.removeprefix(VIDEO_PREFIX): float(array)
        for name, array in arrays.items()
        if name.startswith(VIDEO_PREFIX) and array.shape == ()
    }
    others = (*SNIPPET_PREFIXES, *(VIDEO_PREFIX + i for i in chances))
    scores = {i: array for i, array in arrays.items() if not i.startswith(others)}
    if not truth_path:
        raise UserError("--ground_truth: expected videos.json or an .npz, found none")
    if truth_path.endswith(".npz"):
        labels = load_arrays(truth_path, "an .npz of labels by video id")
        _require_labels(labels, truth_path)
        measures = _measure(scores, labels, {}, scores_path, truth_path)
        return _of_file(measures, chances, {i: int(labels[i].any()) for i in labels})
    annotated = annotations.load(truth_path)
    labels = ground_truth.labels_of_scores(annotated, arrays, scores_path)
    classes = {video.id: video.cls for video in annotated.videos.values()}
    abnormal = {video.id for video in annotated.videos.values() if video.label}
    measures = _measure(scores, labels, classes, scores_path, truth_path, abnormal)
    return _of_file(measures, chances, {i: int(i in abnormal) for i in labels})


def _of_file(
    measures: Measures, chances: Mapping[str, float], labels: Mapping[str, int]
) -> Measures:
    """Adds the measures of a file's calibrated video scores, where it has one of every video."""
    if labels.keys() <= chances.keys():
        # Calibration keeps the order of video scores, and so their rank measures.
        by_video, reasons = _video_measures(chances, chances, labels)
        by_video["ece_uncalibrated"] = None
        _update(measures, by_video, reasons)
    return measures


def _measure(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None],
    scores_name: str,
    truth_name: str,
    abnormal_ids: Collection[str] | None = None,
) -> Measures:
    """Checks scores against labels, then measures; errors name the argument or file given."""
    if not labels:
        raise UserError(
            f"{truth_name}: expected test videos, found none; correct the annotations' splits"
        )
    for video_id, labels_F in labels.items():
        if video_id not in scores:
            raise UserError(
                f"{scores_name}: expected scores of video {video_id!r}, found none; "
                "score every test video"
            )
        scores_F = scores[video_id]
        if scores_F.dtype.kind not in "biuf" or not np.isfinite(scores_F).all():
            raise UserError(
                f"{scores_name}: video {video_id!r}: expected finite scores, found others (NaN, "
                "infinity or no numbers); score it again"
            )
        if scores_F.shape != labels_F.shape:
            raise UserError(
                f"{scores_name}: video {video_id!r}: expected {len(labels_F)} frames as in "
                f"{truth_name}, found {list(scores_F.shape)}; align them first"
            )
    return _frame_measures({i: scores[i] for i in labels}, labels, classes, abnormal_ids)


def _frame_measures(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None],
    abnormal_ids: Collection[str] | None = None,
) -> Measures:
    measures = metrics.frame_measures(scores, labels, classes, abnormal_ids)
    frames = sum(len(scores_F) for scores_F in scores.values())
    return _complete(measures | {"videos": len(scores), "frames": frames}, _frame_reasons(labels))


def _frame_reasons(labels: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Why measures of frames may not be defined, by their names."""
    present = {label for labels_F in labels.values() for label in np.unique(labels_F).tolist()}
    reasons = {"auc_abnormal": "the abnormal test videos' frames have one label, or there are none"}
    if 1 not in present:
        reasons |= dict.fromkeys(_FRAME_MEASURES[:-1], "no abnormal frame in the test videos")
    if 0 not in present:
        why = "no normal frame in the test videos"
        reasons |= dict.fromkeys(("auc", "auc_abnormal", "far"), why)
    return reasons


def _complete(measures: Mapping[str, Any], reasons: Mapping[str, str]) -> Measures:
    """All measures: those that aren't given are None, and so need a detector's snippets."""
    names = (*_FRAME_MEASURES, "video_auc", "video_ap", "ece", "ece_uncalibrated", "threshold",
             "alarms_per_hour", "normal_hours")  # fmt: skip
    complete = cast(Measures, dict.fromkeys(names) | {"per_class": {}, "reasons": {}})
    unknown = "these scores don't tell it: measure the run with --workdir"
    _update(complete, measures, dict.fromkeys(names, unknown) | dict(reasons))
    return complete


def _update(measures: Measures, values: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Sets measures, and says why those that are None are so."""
    measures.update(cast(Measures, values))
    every = measures["reasons"] | dict(reasons)
    measures["reasons"] = {k: v for k, v in every.items() if cast(Any, measures)[k] is None}


def _video_measures(
    scores: Mapping[str, float], chances: Mapping[str, float] | None, labels: Mapping[str, int]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Measures of video scores, and why they may not be defined.

    Args:
      scores: video scores, by id.
      chances: calibrated ones; None where there is no temperature.
      labels: 0 or 1, by id; these videos are measured.
    """
    labels_V = np.array(list(labels.values()))
    scores_V = np.array([scores[i] for i in labels])
    measures = {
        "video_auc": metrics.roc_auc(scores_V, labels_V),
        "video_ap": metrics.average_precision(scores_V, labels_V),
        "ece": None if chances is None else
        calibration.expected_error([chances[i] for i in labels], labels_V),
        "ece_uncalibrated": calibration.expected_error(scores_V, labels_V),
    }  # fmt: skip
    one_label = f"all {len(labels)} test videos have label {labels_V[0]}"
    return measures, {"video_auc": one_label, "video_ap": one_label}


def _require_labels(labels: Mapping[str, np.ndarray], name: str) -> None:
    for video_id, labels_F in labels.items():
        if labels_F.ndim != 1 or not len(labels_F) or not np.isin(labels_F, (0, 1)).all():
            raise UserError(
                f"{name}: video {video_id!r}: expected labels 0 and 1 [frames], found shape "
                f"{list(labels_F.shape)} of {np.unique(labels_F)[:3].tolist()}; convert them"
            )


def measure_store(
    model: "Model",
    store: Store | str | os.PathLike[str],
    split: str = "test",
    annotated: annotations.Annotations | str | os.PathLike[str] | None = None,
    alarms_per_hour: float | None = None,
    normal_store: str = "",
) -> Measures:
    """Measures a model on a store's videos of one split; see `Model.evaluate`."""
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
    path = (annotated or store.videos).path
    if not members:
        raise UserError(
            f"{annotated.path if annotated else store.path}: expected videos of split {split}, "
            "found none; correct the annotations or give another --split"
        )
    model.require(store.manifest, str(store.path))
    if unlabelled := without_frames(members):
        print(f"{path}: no measures of frames: {unlabelled}", file=sys.stderr)
    threshold = calibration.threshold_of(model, every, alarms_per_hour, normal_store)
    return measure_members(model, members, threshold, missing=len(missing), path=path)


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
      model: its config's fidelity chooses the alignment of frames. The published one (reference)
        holds where alignment.is_published; elsewhere frames go by time.
      members: the videos. Measures of frames need frame annotations of every abnormal one.
      threshold: the threshold of events (default: the model's).
      missing: number of test videos that couldn't be encoded; noted unless 0.
      path: path of the annotations, for messages.

    Raises:
      UserError: intervals that don't fit their video, or a score that isn't finite.
    """
    unlabelled = without_frames(members)
    truths = {} if unlabelled else ground_truth.frame_truths(members, path)
    snippets = model.score_members(members)
    if unlabelled:
        measures = _complete(
            {"videos": len(members), "frames": 0}, dict.fromkeys(_FRAME_MEASURES, unlabelled)
        )
    else:
        measures = _measure_frames(model, members, snippets, truths)
    chances, calibrated = model.calibrated_scores(snippets), model.calibration
    by_video, reasons = _video_measures(
        model.video_scores(snippets), chances, {m.video.id: m.video.label for m in members}
    )
    reasons["ece"] = (calibrated and calibrated.temperature_reason) or NOT_CALIBRATED
    _update(measures, by_video, reasons)
    _update(measures, *_event_measures(model, members, snippets, threshold))
    if missing:
        measures["missing"] = missing
    return measures


def _event_measures(
    model: "Model",
    members: Sequence[Member],
    snippets: Mapping[str, np.ndarray],
    threshold: events.Threshold | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The threshold, and the alarms an hour that it gives on the normal test videos."""
    threshold = threshold or (model.calibration.threshold if model.calibration else None)
    normal = {m.video.id: m.store.times(m.video.id) for m in calibration.normal_of(members)}
    scores = {video_id: snippets[video_id] for video_id in normal}
    value = threshold.threshold if threshold else None
    rule = events.Rule(threshold=0.0 if value is None else value)
    alarms, hours = events.count_alarms(scores, normal, rule)
    measures = {
        "threshold": dataclasses.asdict(threshold) if threshold else None,
        "alarms_per_hour": alarms / hours if hours and value is not None else None,
        "normal_hours": hours,
    }
    why = "no normal test video"
    if value is None:
        why = (threshold and threshold.reason) or NOT_CALIBRATED
    return measures, {"threshold": NOT_CALIBRATED, "alarms_per_hour": why}


def _measure_frames(
    model: "Model",
    members: Sequence[Member],
    snippets: Mapping[str, np.ndarray],
    truths: Mapping[str, np.ndarray],
) -> Measures:
    scores, labels = align_frames(model, members, snippets, truths)
    classes = {m.video.id: m.video.cls for m in members}
    abnormal = {m.video.id for m in members if m.video.label}
    return _frame_measures(scores, labels, classes, abnormal)


def align_frames(
    model: "Model",
    members: Sequence[Member],
    snippets: Mapping[str, np.ndarray],
    truths: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Turns snippet scores into the frame scores and labels that are measured, both by id.

    Args:
      model: its config's fidelity chooses the alignment; see `measure_members`.
      members: the videos.
      snippets: snippet scores [T] by id.
      truths: labels [frames] by id.
    """
    scores: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    by_time: list[Member] = []
    for member in members:
        video_id, row = member.video.id, member.row
        if model.config.fidelity == "reference" and _is_published(member):
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
    return scores, labels


def _is_published(member: Member) -> bool:
    manifest, row = member.store.manifest, member.row
    repeat = alignment.REFERENCE_REPEAT
    return alignment.is_published(manifest.snippet, manifest.fps_policy) and alignment.fits(
        row.num_snippets, row.num_frames, repeat, repeat
    )


def describe(measures: Measures) -> str:
    """One line of the most important measures, for people."""
    named = (("AUC", measures["auc"]), ("AP", measures["ap"]), ("false alarms", measures["far"]))
    shown = ", ".join(f"{name} {'-' if v is None else format(v, '.4f')}" for name, v in named)
    if (auc := measures["video_auc"]) is not None:
        shown += f", video AUC {auc:.4f}"
    if (rate := measures["alarms_per_hour"]) is not None:
        shown += f", {rate:.3g} alarms an hour"
    return f"{shown} ({measures['videos']} videos, {measures['frames']} frames)"
