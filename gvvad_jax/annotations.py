"""videos.json: labels, splits and temporal annotations, and what follows from them in time.

The one place that knows how snippets lie over a video's frames, how intervals become frame labels
and how snippet scores become frame scores. numpy only.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError

SPLITS = ("train", "validation", "test")
# The published protocol: a snippet is 16 frames and its score is repeated 16 times.
REFERENCE_REPEAT = 16
# Of a resampled video: a week at 25 a second. What asks for more is a mistaken rate.
MOST_FRAMES = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoAnnotation:
    """What videos.json says of one video.

    Attributes:
      id: the video's name, unique in its file.
      file: path relative to the json, a video or a folder of frames.
      label: 1 abnormal, 0 normal.
      split: train, validation or test.
      cls: class name, e.g. "Fighting"; None where it isn't given.
      fps: frames per second; None where neither the video nor the file gives it.
      num_frames: frames of the source video; None where it isn't given.
      abnormal_frames: [start, end) pairs in source frames; None where only the label is known.
    """

    id: str
    file: str
    label: int
    split: str
    cls: str | None = None
    fps: float | None = None
    num_frames: int | None = None
    abnormal_frames: tuple[tuple[int, int], ...] | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
    """A whole videos.json.

    Attributes:
      videos: by id, in the file's order.
      path: where it was read from, for messages and for resolving files.
    """

    videos: Mapping[str, VideoAnnotation]
    path: str

    def resolve(self, video: VideoAnnotation) -> pathlib.Path:
        """The video's file, which may be missing.

        Raises:
          UserError: it would leave the json's folder, or there can't be a file of this name.
        """
        folder = pathlib.Path(self.path).resolve().parent
        try:
            file = (folder / video.file).resolve()
            inside = file.is_relative_to(folder)
            if inside:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    file.stat()  # Raises where a name is too long, or a link leads to itself.
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.path}: video {video.id!r}: expected a file that can be looked for, found "
                f"{_shortened(video.file)} ({getattr(error, 'strerror', None) or error}); correct "
                "the entry"
            ) from error
        if not inside:
            named = pathlib.Path(os.path.normpath(folder / video.file))
            link = f", a link to {file}" if named.is_relative_to(folder) else ""
            raise UserError(
                f"{self.path}: video {video.id!r}: expected a file inside the json's folder, found "
                f"{video.file!r}{link}; move it there or make the json's folder its parent"
            )
        return file

    def in_split(self, split: str) -> list[VideoAnnotation]:
        return [video for video in self.videos.values() if video.split == split]

    def to_json(self) -> dict[str, Any]:
        """The same content as a JSON object; `from_json` reads it back equal."""
        videos = {}
        for video in self.videos.values():
            entry = {key: value for key, value in dataclasses.asdict(video).items() if key != "id"}
            entry["class"] = entry.pop("cls")
            if video.abnormal_frames is not None:
                entry["abnormal_frames"] = [list(interval) for interval in video.abnormal_frames]
            videos[video.id] = {key: value for key, value in entry.items() if value is not None}
        return {"videos": videos}


def load(path: str | os.PathLike) -> Annotations:
    """Reads and checks a videos.json.

    Args:
      path: the file.

    Returns:
      Its annotations.

    Raises:
      UserError: the file is missing or some entry of it is wrong; the message names the video.
    """
    return from_json(read_json(path), str(path))


def read_json(path: str | os.PathLike) -> Any:
    """A JSON file's content; raises UserError when it is missing, no JSON, or ambiguous."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_pairs_hook=_object)
    except OSError as error:
        raise UserError(f"{path}: expected a JSON file, found none ({error.strerror})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found something else ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise UserError(
                f"expected each name once in an object, found {_shortened(name)} twice; rename or "
                "remove one"
            )
        content[name] = value
    return content


def from_json(content: Any, path: str) -> Annotations:
    """Checks the content of a videos.json; `path` is for messages and resolving files."""
    if not isinstance(content, dict) or not isinstance(content.get("videos"), dict):
        raise UserError(
            f'{path}: expected {{"videos": {{id: {{"file", "label", "split"}}}}}}, found '
            f"{str(content)[:60]}; see the format in README.md"
        )
    default_fps = content.get("fps")
    videos = {
        video_id: _video(video_id, entry, default_fps, path)
        for video_id, entry in content["videos"].items()
    }
    if not videos:
        raise UserError(f"{path}: expected at least one video, found none")
    return Annotations(videos, path)


def _video(video_id: str, entry: Any, default_fps: float | None, path: str) -> VideoAnnotation:
    def check(holds: bool, key: str, expected: str) -> None:
        if not holds:
            found = entry.get(key) if isinstance(entry, dict) else entry
            raise UserError(
                f"{path}: video {video_id!r}: expected {key} {expected}, found {found!r}; "
                "correct the entry"
            )

    check(isinstance(entry, dict), "entry", "to be an object")
    entry = {"fps": default_fps} | entry | {"id": video_id}
    check(_is_text(video_id), "id", "without lone surrogates")
    check(isinstance(entry.get("file"), str), "file", "to be a path")
    check(type(entry.get("label")) is int and entry["label"] in (0, 1), "label", "0 or 1")
    check(entry.get("split") in SPLITS, "split", "train, validation or test")
    check(isinstance(entry.get("class"), str | None), "class", "to be a name")
    fps = entry["fps"]
    check(fps is None or (_is_number(fps) and fps > 0), "fps", "a positive number")
    frames = entry.get("num_frames")
    check(frames is None or (type(frames) is int and frames > 0), "num_frames", "a positive int")
    intervals = entry.get("abnormal_frames")
    if intervals is not None:
        check(_are_intervals(intervals, frames), "abnormal_frames", "[start, end) within the video")
        check(entry["label"] == 1 or not intervals, "abnormal_frames", "empty where label is 0")
        intervals = tuple((start, end) for start, end in intervals)
    return VideoAnnotation(
        id=video_id,
        file=entry["file"],
        label=entry["label"],
        split=entry["split"],
        cls=entry.get("class"),
        fps=fps,
        num_frames=frames,
        abnormal_frames=intervals,
    )


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # An int beyond all floats.
        return False


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: JSON's escapes can hold half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:60]!r}... of {len(text)} characters"


def _are_intervals(intervals: Any, num_frames: int | None) -> bool:
    return isinstance(intervals, list) and all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(type(frame) is int for frame in pair)
        and 0 <= pair[0] < pair[1]
        and (num_frames is None or pair[1] <= num_frames)
        for pair in intervals
    )


def frame_labels(video: VideoAnnotation, num_frames: int, path: str = "") -> np.ndarray:
    """0/1 for each frame of a video.

    Args:
      video: its annotation; a normal video needs no intervals.
      num_frames: length of the result; intervals past it are cut.
      path: of the annotations, for messages.

    Returns:
      uint8 [num_frames].

    Raises:
      UserError: the video is abnormal and its intervals aren't known or all past its end.
    """
    labels = np.zeros(num_frames, np.uint8)
    if video.label and video.abnormal_frames is None:
        raise UserError(
            f"{path}{': ' * bool(path)}video {video.id!r}: expected abnormal_frames for an "
            "abnormal video, found none; frame-level measures need them: add them to the "
            "annotations"
        )
    intervals = video.abnormal_frames or ()
    for start, end in intervals:
        labels[start:end] = 1
    if intervals and num_frames and not labels.any():
        raise UserError(
            f"{path}{': ' * bool(path)}video {video.id!r}: expected abnormal_frames within its "
            f"{num_frames} frames, found {list(intervals[0])}; correct them: they may be of "
            "another frame rate"
        )
    return labels


def snippet_spans(num_frames: int, frames: int, stride: int) -> np.ndarray:
    """Where a video's snippets lie: 0, stride, 2 stride ... until its end is covered.

    Args:
      num_frames: frames of the video after resampling, at least 1.
      frames: frames a snippet.
      stride: frames from one snippet's start to the next one's.

    Returns:
      int64 [T, 2], [start, end) in frames; the last snippet may be shorter than the others.
    """
    num_snippets = max(0, -(-(num_frames - frames) // stride)) + 1
    starts_T = np.arange(num_snippets, dtype=np.int64) * stride
    starts_T = starts_T[starts_T < num_frames]
    return np.stack([starts_T, np.minimum(starts_T + frames, num_frames)], axis=1)


def resampled_frames(num_frames: int, fps: float, target_fps: float) -> np.ndarray:
    """Which source frames stand for a video resampled to another rate: the nearest ones in time.

    Args:
      num_frames: of the source, at least 1.
      fps: of the source.
      target_fps: wanted.

    Returns:
      int64 [frames at the target rate], indices of source frames.

    Raises:
      UserError: there would be more than MOST_FRAMES.
    """
    wanted = num_frames / fps * target_fps
    if not wanted <= MOST_FRAMES:
        raise UserError(
            f"expected at most {MOST_FRAMES} frames after resampling, found {wanted:g}: "
            f"{num_frames} frames at {fps:g} a second, resampled to {target_fps:g}; correct the "
            "video's fps or --fps_policy"
        )
    count = max(1, round(wanted))
    times = (np.arange(count) + 0.5) / target_fps
    return np.clip(np.floor(times * fps), 0, num_frames - 1).astype(np.int64)


def snippet_times(
    num_frames: int, fps: float, frames: int, stride: int, fps_policy: float | str
) -> np.ndarray:
    """The time that each snippet of a video covers.

    Args:
      num_frames: of the source video.
      fps: of the source video.
      frames: frames a snippet, at the policy's rate.
      stride: frames between starts, at the policy's rate.
      fps_policy: "native", or the rate in frames per second that videos were resampled to.

    Returns:
      float64 [T, 2], start and end in seconds of the source video.
    """
    if fps_policy == "native":
        return snippet_spans(num_frames, frames, stride) / fps
    count = len(resampled_frames(num_frames, fps, float(fps_policy)))
    return snippet_spans(count, frames, stride) / float(fps_policy)


def frame_scores(
    scores_T: np.ndarray, times_Tx2: np.ndarray, num_frames: int, fps: float
) -> np.ndarray:
    """Frame scores: the mean of the snippets that cover the middle of each frame's time.

    A frame that none covers (a gap between snippets, or rounding at the end) takes the snippet
    nearest in time.

    Args:
      scores_T: one score a snippet.
      times_Tx2: start and end of each snippet in seconds, both rising.
      num_frames: frames of the source video.
      fps: of the source video.

    Returns:
      float32 [num_frames].

    Raises:
      ValueError: scores and times differ in length.
    """
    if len(scores_T) != len(times_Tx2):
        raise ValueError(
            f"expected as many scores as times, found {len(scores_T)} and {len(times_Tx2)}"
        )
    middles_F = (np.arange(num_frames) + 0.5) / fps
    starts_T, ends_T = times_Tx2.T
    # Starts and ends both rise, so the snippets that cover a moment are the run [first, last).
    first_F = np.searchsorted(ends_T, middles_F, side="right")
    last_F = np.searchsorted(starts_T, middles_F, side="right")
    sums = np.concatenate([[0.0], np.cumsum(scores_T, dtype=np.float64)])
    count_F = last_F - first_F
    means_F = (sums[np.maximum(last_F, first_F)] - sums[first_F]) / np.maximum(count_F, 1)
    before_F = np.clip(last_F - 1, 0, None)
    after_F = np.clip(first_F, None, len(scores_T) - 1)
    nearer_after_F = starts_T[after_F] - middles_F < middles_F - ends_T[before_F]
    nearest_F = np.where(nearer_after_F, after_F, before_F)
    return np.where(count_F > 0, means_F, scores_T[nearest_F]).astype(np.float32)


def is_published(snippet: Mapping[str, Any], fps_policy: float | str) -> bool:
    """Whether the published protocol holds: snippets of 16 frames every 16 at the video's rate.

    Where a store says "unknown" it may. Other snippets repeated 16 times would be out of time.
    """
    known = {snippet["frames"], snippet["stride"]} - {"unknown"}
    return known <= {REFERENCE_REPEAT} and fps_policy in ("native", "unknown")


def reference_frame_scores(scores_T: np.ndarray) -> np.ndarray:
    """The published protocol: each snippet's score repeated 16 times.

    Args:
      scores_T: one score a snippet.

    Returns:
      float32 [16 T].
    """
    return np.repeat(np.asarray(scores_T, np.float32), REFERENCE_REPEAT)


def reference_align(
    scores: Sequence[float], labels: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The published protocol's lengths: too long a truth is cut, too short a one padded.

    Args:
      scores: per frame, as `reference_frame_scores` gives them.
      labels: 0/1 per frame.

    Returns:
      (scores, labels) of the scores' length; padding repeats the last label.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if len(labels) >= len(scores):
        return scores, labels[: len(scores)]
    padding = np.full(len(scores) - len(labels), labels[-1])
    return scores, np.concatenate([labels, padding])
