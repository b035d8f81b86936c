"""videos.json: labels, splits and temporal annotations of a set of videos. numpy only."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.files import Json, read_json, shorten

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoAnnotation:
    """One video's entry in videos.json.

    Attributes:
      id: the video's name, unique in its file.
      file: path relative to the json, a video or a folder of frames.
      label: 1 abnormal, 0 normal.
      split: train, validation or test.
      cls: class name, e.g. "Fighting"; None if not given.
      fps: frames per second; None if neither the entry nor the file gives it.
      num_frames: frames of the source video; None if not given.
      abnormal_frames: [start, end) pairs in source frames; None if only the label is known.
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
      videos: the videos by id, in the file's order.
      path: path of the json, for messages and for resolving files.
    """

    videos: Mapping[str, VideoAnnotation]
    path: str

    def resolve(self, video: VideoAnnotation) -> pathlib.Path:
        """Returns the path of the video's file, which may not exist.

        Raises:
          UserError: the path leaves the json's folder, or can't be a file's.
        """
        folder = pathlib.Path(self.path).resolve().parent
        try:
            file = (folder / video.file).resolve()
            inside = file.is_relative_to(folder)
            if inside:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    file.stat()  # Raises if a name is too long, or a link leads to itself.
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.path}: video {video.id!r}: expected the path of a file, found "
                f"{shorten(video.file)} ({getattr(error, 'strerror', None) or error}); correct "
                "the entry"
            ) from error
        if not inside:
            unresolved = pathlib.Path(os.path.normpath(folder / video.file))
            link = f", a link to {file}" if unresolved.is_relative_to(folder) else ""
            raise UserError(
                f"{self.path}: video {video.id!r}: expected a file inside the json's folder, found "
                f"{video.file!r}{link}; move the file there, or move the json"
            )
        return file

    def in_split(self, split: str) -> list[VideoAnnotation]:
        """Lists the videos of a split."""
        return [video for video in self.videos.values() if video.split == split]

    def to_json(self) -> dict[str, Json]:
        """Returns the content of a videos.json, which `from_json` reads back equal."""
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
      UserError: the file is missing, or an entry is wrong; the message names the video.
    """
    return from_json(read_json(path), str(path))


def from_json(content: Json, path: str) -> Annotations:
    """Checks the content of a videos.json; raises UserError as `load` does.

    Args:
      content: the parsed JSON.
      path: path of the json, for messages and for resolving files.
    """
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


def _video(video_id: str, entry: Json, default_fps: float | None, path: str) -> VideoAnnotation:
    def check(holds: bool, key: str, expected: str) -> None:
        if not holds:
            value = entry.get(key) if isinstance(entry, dict) else entry
            raise UserError(
                f"{path}: video {video_id!r}: expected {key} {expected}, found {value!r}; "
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


def _is_number(value: Json) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # An int larger than every float.
        return False


def _is_text(value: str) -> bool:
    """Tells whether a text can be written as UTF-8: JSON's escapes can hold lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_intervals(intervals: Json, num_frames: int | None) -> bool:
    return isinstance(intervals, list) and all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(type(frame) is int for frame in pair)
        and 0 <= pair[0] < pair[1]
        and (num_frames is None or pair[1] <= num_frames)
        for pair in intervals
    )


def frame_labels(video: VideoAnnotation, num_frames: int, path: str = "") -> np.ndarray:
    """Makes a video's frame labels: 1 for abnormal frames, 0 for the others.

    Args:
      video: the video's annotation; a normal video needs no intervals.
      num_frames: number of labels; intervals are cut there.
      path: path of the annotations, for messages.

    Returns:
      uint8 [num_frames].

    Raises:
      UserError: an abnormal video has no intervals, or all of them are past its end.
    """
    labels = np.zeros(num_frames, np.uint8)
    if video.label and video.abnormal_frames is None:
        raise UserError(
            f"{path}{': ' * bool(path)}video {video.id!r}: expected abnormal_frames for an "
            "abnormal video, found none; add them to the annotations, because frame-level measures "
            "need them"
        )
    intervals = video.abnormal_frames or ()
    for start, end in intervals:
        labels[start:end] = 1
    if intervals and num_frames and not labels.any():
        raise UserError(
            f"{path}{': ' * bool(path)}video {video.id!r}: expected abnormal_frames within its "
            f"{num_frames} frames, found {list(intervals[0])}; correct them: they may belong to "
            "another frame rate"
        )
    return labels
