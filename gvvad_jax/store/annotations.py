"""videos.json: labels, splits and temporal annotations of a set of videos. numpy only."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_json, shortened

SPLITS = ("train", "validation", "test")


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
                f"{shortened(video.file)} ({getattr(error, 'strerror', None) or error}); correct "
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
