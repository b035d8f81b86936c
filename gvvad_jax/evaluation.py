"""Frame-level measures of a trained detector, or of any scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax import metrics
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.files import load_arrays


def measure_members(
    model: Any, members: Sequence[Any], *, missing: int = 0, path: str = ""
) -> dict[str, Any]:
    """Frame-level measures of a model on test videos.

    Args:
      model: a score.Model; its config's fidelity chooses the alignment of frames. The published
        one (reference) holds where annotations.is_published; elsewhere frames go by time.
      members: batches.Member, with frame annotations.
      missing: test videos that couldn't be encoded, noted where there are any.
      path: of the annotations, for messages.

    Returns:
      metrics.frame_measures' dictionary with `videos` and `frames` counted, and `missing`.

    Raises:
      UserError: an abnormal video without intervals, or a score that isn't finite.
    """
    truths = {
        m.video.id: annotations.frame_labels(m.video, m.row.num_frames, path) for m in members
    }
    snippets = model.of_members(members)
    scores, labels = {}, {}
    for member in members:
        video_id, row, manifest = member.video.id, member.row, member.store.manifest
        truth = truths[video_id]
        published = alignment.is_published(manifest.snippet, manifest.fps_policy)
        if model.config.fidelity == "reference" and published:
            repeated = alignment.reference_frame_scores(snippets[video_id])
            scores[video_id], labels[video_id] = alignment.reference_align(repeated, truth)
        else:
            scores[video_id] = alignment.frame_scores(
                snippets[video_id], member.store.times(video_id), row.num_frames, row.fps
            )
            labels[video_id] = truth
    measures = _measured(scores, labels, {m.video.id: m.video.cls for m in members})
    return measures | ({"missing": missing} if missing else {})


def _measured(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None],
) -> dict[str, Any]:
    measures = metrics.frame_measures(scores, labels, classes)
    frames = sum(len(frames) for frames in scores.values())
    return measures | {"videos": len(scores), "frames": frames}


def measure_files(scores_path: str, truth_path: str) -> dict[str, Any]:
    """Measures of S.npz (frame scores by video id) against a videos.json or a G.npz.

    Raises:
      UserError: a missing video, lengths that differ, scores that aren't finite, labels other than
        0 and 1, no test video; the message names the file and the video.
    """
    scores = {
        name: array
        for name, array in load_arrays(scores_path, "an .npz of scores by video id").items()
        if not name.startswith(("snippets/", "times/"))
    }
    labels, classes = _read_truth(truth_path, scores)
    if not labels:
        raise UserError(
            f"{truth_path}: expected test videos, found none; correct the annotations' splits"
        )
    for video_id, truth in labels.items():
        if video_id not in scores:
            raise UserError(
                f"{scores_path}: expected scores of video {video_id!r}, found none; "
                "score every test video"
            )
        found = scores[video_id]
        if found.dtype.kind not in "biuf" or not np.isfinite(found).all():
            raise UserError(
                f"{scores_path}: video {video_id!r}: expected finite scores, found others (NaN, "
                "infinity or no numbers); score it again"
            )
        if found.shape != truth.shape:
            raise UserError(
                f"{scores_path}: video {video_id!r}: expected {len(truth)} frames as in "
                f"{truth_path}, found {list(found.shape)}; align them first"
            )
    return _measured({i: scores[i] for i in labels}, labels, classes)


def _read_truth(
    path: str, scores: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str | None]]:
    if not path:
        raise UserError("--ground_truth: expected videos.json or an .npz, found none")
    if path.endswith(".npz"):
        labels = load_arrays(path, "an .npz of labels by video id")
        for video_id, labels_F in labels.items():
            if labels_F.ndim != 1 or not len(labels_F) or not np.isin(labels_F, (0, 1)).all():
                raise UserError(
                    f"{path}: video {video_id!r}: expected labels 0 and 1 [frames], found shape "
                    f"{list(labels_F.shape)} of {np.unique(labels_F)[:3].tolist()}; convert them"
                )
        return labels, {}
    annotated = annotations.load(path)
    labels = {}
    for video in annotated.in_split("test"):
        # Without a length of its own a video is as long as its scores.
        length = video.num_frames or len(scores.get(video.id, ()))
        labels[video.id] = annotations.frame_labels(video, length, path)
    return labels, {video.id: video.cls for video in annotated.videos.values()}
