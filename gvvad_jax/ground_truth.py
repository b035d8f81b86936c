"""Frame labels of test videos, and reports of where lists, files and rows differ. No JAX."""

import functools
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from gvvad_jax import conventions
from gvvad_jax.command import UserError
from gvvad_jax.splits import Member
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.files import Json

_RESCALED = "annotated at another frame rate, abnormal_frames are rescaled by time"
# A video's id and what is to be said of it.
_Named = tuple[str, str]


def frame_truths(members: Sequence[Member], path: str = "") -> dict[str, np.ndarray]:
    """Returns the labels [frames] of test videos by id, and reports where lists and files differ.

    Intervals that were annotated at another frame rate are rescaled by time.

    Args:
      members: the videos, with frame annotations.
      path: path of the annotations, for messages (default: the list of each video's store).

    Raises:
      UserError: an abnormal video without intervals, or with intervals of another video's length.
    """
    labels = {}
    rescaled: list[Member] = []
    as_numbered: list[Member] = []
    for member in members:
        video, row, where = member.video, member.row, path or member.store.videos.path
        scale = annotations.frame_scale(
            video,
            row.num_frames,
            row.fps,
            where,
            slack=_slack(member.store.manifest.snippet),
            declared_frames=row.declared_frames,
        )
        labels[video.id] = annotations.frame_labels(video, row.num_frames, where, scale)
        (as_numbered if scale == 1.0 else rescaled).append(member)
    _report(path or _paths(members), _RESCALED, _contradictions(rescaled))
    report_contradictions(as_numbered, path)
    return labels


def report_contradictions(members: Sequence[Member], path: str = "") -> None:
    """Reports the videos whose entries and files differ in frames or rate.

    Args:
      members: the videos.
      path: path of the annotations, for messages.
    """
    what = "differ from their files, where frames keep their numbers"
    _report(path or _paths(members), what, _contradictions(members))


def _contradictions(members: Sequence[Member]) -> list[_Named]:
    named = ((m, annotations.contradictions(m.video, m.row.num_frames, m.row.fps)) for m in members)
    return [(member.video.id, "; ".join(faults)) for member, faults in named if faults]


def _paths(members: Sequence[Member]) -> str:
    return ",".join(sorted({str(member.store.path) for member in members}))


def _slack(snippet: Mapping[str, Json]) -> int:
    """Returns by how many frames a store of features may miss a video's length."""
    own = "alignment" in snippet or "unknown" in snippet.values()
    frames = snippet.get("frames")
    return 2 * frames if own and isinstance(frames, int) else 0


def labels_of_scores(
    annotated: annotations.Annotations, arrays: Mapping[str, np.ndarray], scores_path: str
) -> dict[str, np.ndarray]:
    """Returns the labels [frames] of a list's test videos by id, for the scores of S.npz.

    A video without num_frames is as long as its scores, as far as their times or rate confirm it;
    videos of which neither is known are reported.
    """
    path = annotated.path
    labels = {}
    other_rate: list[_Named] = []
    unchecked: list[_Named] = []
    for video in annotated.in_split("test"):
        count = len(np.atleast_1d(arrays.get(video.id, ())))
        rate, scale, length = _rate(arrays, video, scores_path), 1.0, video.num_frames or count
        if count and rate is not None:
            _require_length(arrays, video.id, count, rate, scores_path)
            scale = annotations.frame_scale(video, count, rate, path)
            _require_scaled(video, count, scale, rate, scores_path)
            if scale != 1.0:
                faults = annotations.contradictions(video, count, rate)
                other_rate.append((video.id, "; ".join(faults)))
                length = count
        elif count and video.num_frames is None:
            annotations.frame_scale(video, count, None, path)
            unchecked.append((video.id, f"{count} scores, one for each frame"))
        labels[video.id] = annotations.frame_labels(video, length, path, scale)
    _report(path, _RESCALED, other_rate)
    doubts = _doubts({video_id: len(labels[video_id]) for video_id, _ in unchecked}, annotated)
    _report(
        path,
        "without num_frames, so that the number of their scores in "
        f"{scores_path} can't be checked{doubts}",
        unchecked,
    )
    return labels


def _require_scaled(
    video: annotations.VideoAnnotation, count: int, scale: float, rate: float, scores_path: str
) -> None:
    """Raises UserError unless a video at another rate has the scores that its frames make there."""
    if scale == 1.0 or video.num_frames is None:
        return
    expected = video.num_frames * scale
    if abs(count - expected) > max(2, 0.01 * expected):
        raise UserError(
            f"{scores_path}: video {video.id!r}: expected {expected:.0f} scores at {rate:g} fps "
            f"for its {video.num_frames} frames at {video.fps:g} fps, found {count}; score the "
            "video again"
        )


def _doubts(counts: Mapping[str, int], annotated: annotations.Annotations) -> str:
    """Says what the lengths of scores look like that nothing confirms, as a clause for messages."""
    if not counts:
        return ""
    total, repeat = sum(counts.values()), alignment.REFERENCE_REPEAT
    if known := conventions.circulating(total):
        return f" ({total} in all{known})"
    if len(counts) > 1 and all(count % repeat == 0 for count in counts.values()):
        return (
            f" (each has a multiple of {repeat}: if they are snippet scores repeated {repeat} "
            "times, the last ones have no frame)"
        )
    ends = [
        (counts[i], max(end for _, end in annotated.videos[i].abnormal_frames or ()))
        for i in counts
        if annotated.videos[i].abnormal_frames
    ]
    if len(ends) > 2 and all(end * repeat <= 2 * count for count, end in ends):
        return (
            f" (every event ends in the first eighth of its scores, as if each was repeated "
            f"{repeat} times too often)"
        )
    return ""


def _rate(
    arrays: Mapping[str, np.ndarray], video: annotations.VideoAnnotation, scores_path: str
) -> float | None:
    """Returns the frame rate of a video's scores, if S.npz says it or has times."""
    rate = arrays.get(f"fps/{video.id}")
    if rate is None:
        return video.fps if f"times/{video.id}" in arrays else None
    if rate.shape != () or rate.dtype.kind not in "iuf" or not 0 < rate < np.inf:
        raise UserError(
            f"{scores_path}: fps/{video.id}: expected one positive number, found "
            f"{str(rate.tolist())[:60]}; score again"
        )
    return float(rate)


def _require_length(
    arrays: Mapping[str, np.ndarray], video_id: str, count: int, rate: float, scores_path: str
) -> None:
    """Raises UserError unless a video's scores are as many as its snippets' times say."""
    times_Tx2 = arrays.get(f"times/{video_id}")
    if times_Tx2 is None:
        return
    numbers = times_Tx2.dtype.kind in "iuf" and np.isfinite(times_Tx2).all()
    if not numbers or times_Tx2.ndim != 2 or not len(times_Tx2) or times_Tx2.shape[1] != 2:
        raise UserError(
            f"{scores_path}: times/{video_id}: expected a start and an end in seconds for each "
            f"snippet [T, 2], found {times_Tx2.dtype} of shape {list(times_Tx2.shape)}; score again"
        )
    end, longest = float(times_Tx2[-1, -1]), float(np.max(np.diff(times_Tx2)))
    # At most two snippets are missing at the end; see alignment.fits.
    if not end * rate * 0.99 - 2 <= count <= (end + 2 * longest) * rate * 1.01 + 2:
        raise UserError(
            f"{scores_path}: video {video_id!r}: expected a score for each frame, {end * rate:.0f} "
            f"in {end:g} s at {rate:g} fps (times/{video_id}), found {count}; score the video again"
        )


def report_alignment(members: Sequence[Member]) -> None:
    """Reports the videos whose rows lie elsewhere than the manifest's snippets would."""
    notes: dict[str, list[_Named]] = {}
    for member in members:
        if note := member.store.manifest.aligned(member.row)[1]:
            notes.setdefault(str(member.store.path), []).append((member.video.id, note))
    for path, found in notes.items():
        _report(path, "aligned otherwise than by their snippets", found)


def _report(path: str, what: str, videos: Sequence[_Named]) -> None:
    """Prints one line about some videos, once in a process: (id, details) of each."""
    if videos:
        video_id, details = videos[0]
        _print_once(f"{path}: {len(videos)} videos {what}; {video_id!r} first: {details}")


@functools.cache
def _print_once(line: str) -> None:
    print(line, file=sys.stderr)
