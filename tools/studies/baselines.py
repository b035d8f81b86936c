"""Baselines that learn nothing: a detector has to beat them to have learned anything.

Each rule scores every frame of a video from its pixels, without any training. `oracle` gives every
frame its video's true label, which shows what video-level knowledge alone is worth.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from generation.encode import provenance
from gvvad_jax import metrics
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations, digests

RULES = ("brightness", "mean_flow", "flow_p99", "frame_difference", "sharpness")
GRID = (4, 6)
# Width in pixels at which flow is computed, as in the motion encoder; smaller videos keep theirs.
WORKING_WIDTH = 240


def footage_digest(annotated: annotations.Annotations) -> str:
    """Digest of the videos' files and annotations; scores that were kept under it stay valid."""
    content = [annotated.to_json(), provenance.video_digests(annotated, {}, "real")]
    return digests.of_json(content)[:16]


def rule_scores(frames_FxHxWx3: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of every rule for each frame.

    Args:
      frames_FxHxWx3: RGB uint8.

    Returns:
      {rule: float64 [F]}: mean brightness; mean optical flow; 99th percentile of the flow in the
      busiest cell of a 4x6 grid; mean absolute frame difference; variance of the Laplacian. Rules
      between two frames give the first frame the second one's score.
    """
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_FxHxWx3]
    small = [_shrink(image) for image in gray]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    between = []
    for i in range(1, len(gray)):
        speed_HxW = np.linalg.norm(flow.calc(small[i - 1], small[i], None), axis=2)
        difference = float(cv2.absdiff(gray[i - 1], gray[i]).mean())
        between.append((speed_HxW.mean(), _busiest_cell(speed_HxW), difference))
    mean_flow, flow_p99, difference = np.array(between[:1] + between or [(0.0, 0.0, 0.0)]).T
    return {
        "brightness": np.array([image.mean() for image in gray]),
        "mean_flow": mean_flow,
        "flow_p99": flow_p99,
        "frame_difference": difference,
        "sharpness": np.array([cv2.Laplacian(image, cv2.CV_64F).var() for image in gray]),
    }


def _shrink(image_HxW: np.ndarray) -> np.ndarray:
    height, width = image_HxW.shape
    if width <= WORKING_WIDTH:
        return image_HxW
    size = (WORKING_WIDTH, round(height * WORKING_WIDTH / width))
    return cv2.resize(image_HxW, size, interpolation=cv2.INTER_AREA)


def _busiest_cell(speed_HxW: np.ndarray) -> float:
    rows = np.array_split(speed_HxW, GRID[0], axis=0)
    return max(np.percentile(cell, 99) for row in rows for cell in np.array_split(row, GRID[1], 1))


def smoothed(scores_F: np.ndarray, frames: int, stride: int) -> np.ndarray:
    """Averages a rule's frame scores over snippets, as a detector's scores are."""
    spans_Tx2 = alignment.snippet_spans(len(scores_F), frames, stride)
    scores_T = np.array([scores_F[start:end].mean() for start, end in spans_Tx2])
    return alignment.frame_scores(scores_T, spans_Tx2.astype(float), len(scores_F), 1.0)


def measure(
    scores: Mapping[str, Mapping[str, np.ndarray]],
    videos: Sequence[annotations.VideoAnnotation],
) -> dict[str, dict[str, Any]]:
    """Measures each rule on some videos, with the better of its two signs.

    Args:
      scores: {video id: {rule: [F]}}, as `rule_scores` gives them.
      videos: the videos, with frame annotations.

    Returns:
      {rule or "oracle": {"auc", "auc_abnormal", "flipped"}}; `flipped` says whether the negated
      score has the better AUC over all videos.
    """
    labels = {}
    for video in videos:
        length = _length(scores[video.id])
        # The rate as decoded isn't known here; a list of another length is refused.
        scale = annotations.frame_scale(video, length, None)
        labels[video.id] = annotations.frame_labels(video, length, scale=scale)

    def measured(score: Callable[[annotations.VideoAnnotation], np.ndarray]) -> dict[str, Any]:
        signs = {
            flipped: metrics.frame_measures(
                {v.id: -score(v) if flipped else score(v) for v in videos}, labels
            )
            for flipped in (False, True)
        }
        flipped = (signs[True]["auc"] or 0.0) > (signs[False]["auc"] or 0.0)
        best = signs[flipped]
        return {"auc": best["auc"], "auc_abnormal": best["auc_abnormal"], "flipped": flipped}

    rules = list(next(iter(scores.values())))
    table = {rule: measured(lambda v, rule=rule: scores[v.id][rule]) for rule in rules}
    table["oracle"] = measured(lambda v: np.full(_length(scores[v.id]), float(v.label)))
    return table


def _length(rules: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(rules.values())))


def score_video(
    annotated: annotations.Annotations, video: annotations.VideoAnnotation
) -> dict[str, np.ndarray]:
    """Decodes one video and returns its `rule_scores`; raises UserError if it doesn't exist."""
    from generation.media import reading

    cv2.setNumThreads(1)
    path = annotated.resolve(video)
    if not path.exists():
        raise UserError(
            f"{path}: expected the file of video {video.id!r}, found none; correct videos.json"
        )
    return rule_scores(reading.read(path).frames_TxHxWx3)
