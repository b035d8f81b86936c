"""Frame-level measures of a trained detector, or of any scores.

    python -m gvvad_jax.evaluate --workdir=W --store=STORE [--annotations=videos.json]
    python -m gvvad_jax.evaluate --scores=S.npz --ground_truth=videos.json|G.npz

Prints one JSON object {auc, ap, pr_auc, auc_abnormal, far, per_class, videos, frames}.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from gvvad_jax import annotations, metrics
from gvvad_jax.command import UserError, run_command


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    if bool(values.workdir) == bool(values.scores):
        raise UserError("expected either --workdir or --scores, found both or neither")
    found = _of_workdir() if values.workdir else of_files(values.scores, values.ground_truth)
    print(json.dumps(found))


def _of_workdir() -> dict[str, Any]:
    from gvvad_jax import batches, score, store

    values = flags.FLAGS
    if not values.store:
        raise UserError("--store: expected a feature store with test videos, found none")
    model = score.load(values.workdir, values.checkpoint)
    opened = store.Store(values.store)
    model.require(opened.manifest, values.store)
    override = annotations.load(values.annotations) if values.annotations else None
    test = [
        member for member in batches.members(opened, override) if member.video.split == values.split
    ]
    if not test:
        raise UserError(
            f"{values.annotations or values.store}: expected videos of split {values.split}, "
            "found none; correct the annotations or give another --split"
        )
    return of_members(model, test)


def of_members(model: Any, members: Sequence[Any]) -> dict[str, Any]:
    """Frame-level measures of a model on test videos.

    Args:
      model: a score.Model; its config's fidelity chooses the alignment of frames.
      members: batches.Member, with frame annotations.

    Returns:
      metrics.frame_measures' dictionary with `videos` and `frames` counted.

    Raises:
      UserError: an abnormal video without intervals.
    """
    snippets = model.scores(
        {m.video.id: (m.store.visual(m.video.id), m.store.text(m.video.id)) for m in members}
    )
    scores, labels = {}, {}
    for member in members:
        video_id, row = member.video.id, member.row
        truth = annotations.frame_labels(member.video, row.num_frames)
        if model.config.fidelity == "reference":
            repeated = annotations.reference_frame_scores(snippets[video_id])
            scores[video_id], labels[video_id] = annotations.reference_align(repeated, truth)
        else:
            scores[video_id] = annotations.frame_scores(
                snippets[video_id], member.store.times(video_id), row.num_frames, row.fps
            )
            labels[video_id] = truth
    return _measured(scores, labels, {m.video.id: m.video.cls for m in members})


def _measured(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, str | None],
) -> dict[str, Any]:
    measures = metrics.frame_measures(scores, labels, classes)
    frames = sum(len(frames) for frames in scores.values())
    return measures | {"videos": len(scores), "frames": frames}


def of_files(scores_path: str, truth_path: str) -> dict[str, Any]:
    """Measures of S.npz (frame scores by video id) against a videos.json or a G.npz.

    Raises:
      UserError: a missing video, or lengths that differ; the message names the video.
    """
    scores = {
        name: array
        for name, array in _read_arrays(scores_path).items()
        if not name.startswith(("snippets/", "times/"))
    }
    labels, classes = _read_truth(truth_path, scores)
    for video_id, truth in labels.items():
        if video_id not in scores:
            raise UserError(
                f"{scores_path}: expected scores of video {video_id!r}, found none; "
                "score every test video"
            )
        if scores[video_id].shape != truth.shape:
            raise UserError(
                f"{scores_path}: video {video_id!r}: expected {len(truth)} frames as in "
                f"{truth_path}, found {list(scores[video_id].shape)}; align them first"
            )
    return _measured({i: scores[i] for i in labels}, labels, classes)


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: expected an .npz of arrays by video id, found {error}") from error


def _read_truth(
    path: str, scores: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str | None]]:
    if not path:
        raise UserError("--ground_truth: expected videos.json or an .npz, found none")
    if path.endswith(".npz"):
        return _read_arrays(path), {}
    annotated = annotations.load(path)
    labels = {}
    for video in annotated.in_split("test"):
        # Without a length of its own a video is as long as its scores.
        length = video.num_frames or len(scores.get(video.id, ()))
        labels[video.id] = annotations.frame_labels(video, length)
    return labels, {video.id: video.cls for video in annotated.videos.values()}


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "a run's folder")
    flags.DEFINE_string("store", "", "feature store with the test videos")
    flags.DEFINE_string("annotations", "", "videos.json that overrides the one in the store")
    flags.DEFINE_string("split", "test", "which videos")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best_on_validation", "best_on_test"], "which")
    flags.DEFINE_string("scores", "", "S.npz of frame scores, instead of a run")
    flags.DEFINE_string("ground_truth", "", "videos.json or G.npz, with --scores")
    run_command(main, usage=__doc__)
