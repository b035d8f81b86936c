"""Frame-level measures of a trained detector, or of any scores. Imports no JAX."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import numpy as np

from gvvad_jax import ground_truth, metrics
from gvvad_jax.command import UserError
from gvvad_jax.splits import Member, members_of, report_missing
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.files import load_arrays
from gvvad_jax.store.reader import Store

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model

# Arrays of S.npz that stand beside each video's frame scores begin with these.
SNIPPET_PREFIXES = ("snippets/", "times/", "fps/")


class Measures(TypedDict):
    """Frame-level measures over a set of test videos; None where a measure isn't defined.

    Attributes:
      auc: area under the ROC curve of all frames.
      ap: average precision of all frames.
      pr_auc: trapezoid area under the precision-recall curve, which some publications call AP.
      auc_abnormal: `auc` over the frames of abnormal videos only.
      far: false alarm rate, the share of normal frames scored above 0.5.
      per_class: each class's AUC against all normal test videos.
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
      The measures over all videos of `truth`.

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
    scores = {i: array for i, array in arrays.items() if not i.startswith(SNIPPET_PREFIXES)}
    if not truth_path:
        raise UserError("--ground_truth: expected videos.json or an .npz, found none")
    if truth_path.endswith(".npz"):
        labels = load_arrays(truth_path, "an .npz of labels by video id")
        _require_labels(labels, truth_path)
        return _measure(scores, labels, {}, scores_path, truth_path)
    annotated = annotations.load(truth_path)
    labels = ground_truth.labels_of_scores(annotated, arrays, scores_path)
    classes = {video.id: video.cls for video in annotated.videos.values()}
    abnormal = {video.id for video in annotated.videos.values() if video.label}
    return _measure(scores, labels, classes, scores_path, truth_path, abnormal)


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
    return cast(Measures, {**measures, "videos": len(scores), "frames": frames})


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
    members = [member for member in members_of(store, annotated) if member.video.split == split]
    path = (annotated or store.videos).path
    if not members:
        raise UserError(
            f"{annotated.path if annotated else store.path}: expected videos of split {split}, "
            "found none; correct the annotations or give another --split"
        )
    model.require(store.manifest, str(store.path))
    return measure_members(model, members, missing=len(missing), path=path)


def measure_members(
    model: "Model", members: Sequence[Member], *, missing: int = 0, path: str = ""
) -> Measures:
    """Measures a model on test videos, frame by frame.

    Args:
      model: its config's fidelity chooses the alignment of frames. The published one (reference)
        holds where alignment.is_published; elsewhere frames go by time.
      members: the videos, with frame annotations.
      missing: number of test videos that couldn't be encoded; noted unless 0.
      path: path of the annotations, for messages.

    Raises:
      UserError: an abnormal video without intervals, or a score that isn't finite.
    """
    truths = ground_truth.frame_truths(members, path)
    snippets = model.score_members(members)
    scores, labels = {}, {}
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
    classes = {m.video.id: m.video.cls for m in members}
    abnormal = {m.video.id for m in members if m.video.label}
    measures = _frame_measures(scores, labels, classes, abnormal)
    if missing:
        measures["missing"] = missing
    return measures


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
    return f"{shown} ({measures['videos']} videos, {measures['frames']} frames)"
