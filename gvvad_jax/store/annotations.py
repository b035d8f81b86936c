"""videos.json: labels, splits and temporal annotations of a set of videos. numpy only."""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Literal, NoReturn

import msgspec
import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import alignment
from gvvad_jax.store.files import Json, read_json, shorten
from gvvad_jax.store.ids import require_ids

SPLITS = ("train", "validation", "test")
# Rates and lengths that differ by this share are the same: containers round rates such as 29.97.
_SAME = 0.01
# What the keys of an entry hold, for messages.
_EXPECTED = {
    "entry": "to be an object of UTF-8 texts",
    "file": "to be a path",
    "label": "0 or 1",
    "split": "train, validation or test",
    "class": "to be a name",
    "group": "to be a name that isn't empty",
    "fps": "a positive number",
    "num_frames": f"a positive int up to {alignment.MOST_FRAMES}",
    "abnormal_frames": "[start, end) within the video",
}
_Frame = Annotated[int, msgspec.Meta(ge=0, le=alignment.MOST_FRAMES)]


class _Entry(msgspec.Struct, frozen=True, rename={"cls": "class"}):
    """The types of an entry; see VideoAnnotation. Other keys are left alone."""

    file: str
    label: Literal[0, 1]
    split: Literal["train", "validation", "test"]
    cls: str | None = None
    group: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    fps: Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)] | None = None
    num_frames: Annotated[int, msgspec.Meta(gt=0, le=alignment.MOST_FRAMES)] | None = None
    abnormal_frames: tuple[tuple[_Frame, _Frame], ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoAnnotation:
    """One video's entry in videos.json.

    Attributes:
      id: the video's name, unique in its file.
      file: path relative to the json, a video or a folder of frames.
      label: 1 abnormal, 0 normal.
      split: train, validation or test.
      cls: class name, e.g. "Fighting"; None if not given.
      group: what the video shares with others, e.g. its camera or scene; None if not given.
      fps: frames per second; None if neither the entry nor the file gives it.
      num_frames: frames of the source video; None if not given.
      abnormal_frames: [start, end) pairs in source frames; None if only the label is known, as
        in an abnormal video with an empty list.
    """

    id: str
    file: str
    label: int
    split: str
    cls: str | None = None
    group: str | None = None
    fps: float | None = None
    num_frames: int | None = None
    abnormal_frames: tuple[tuple[int, int], ...] | None = None

    @property
    def kin(self) -> str:
        """The name of the video's group; its own id where it has none."""
        return self.group or self.id


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

        It is looked up beside the json's path as given, then beside the file that a linked json
        stands for. An entry can't lead out of the folder, but a link in it may: someone put it
        there, as the Hub's snapshots consist of links.

        Raises:
          UserError: the entry leaves the json's folder, can't be a file's, or is a link to nothing.
        """
        given = pathlib.Path(os.path.abspath(self.path))
        try:
            folders = [given.parent, given.resolve().parent]
            files = [pathlib.Path(os.path.normpath(folder / video.file)) for folder in folders]
            inside = [f for f, folder in zip(files, folders, strict=True)
                      if f.is_relative_to(folder)]  # fmt: skip
            present = [file for file in inside if _exists(file)]
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.path}: video {video.id!r}: expected the path of a file, found "
                f"{shorten(video.file)} ({getattr(error, 'strerror', None) or error}); correct "
                "the entry"
            ) from error
        if not inside:
            raise UserError(
                f"{self.path}: video {video.id!r}: expected a file inside the json's folder, found "
                f"{video.file!r}; move the file there, or move the json"
            )
        for file in inside if not present else ():
            if file.is_symlink():
                raise UserError(
                    f"{self.path}: video {video.id!r}: expected a file, found {video.file!r}, a "
                    f"link to {os.readlink(file)!r}, where there is none; correct the link"
                )
        return (present or inside)[0]

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


def _exists(file: pathlib.Path) -> bool:
    """Tells whether there is such a file; raises OSError for a name that can't be one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        file.stat()  # Raises if a name is too long, or a link leads to itself.
        return True
    return False


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
    require_ids(content["videos"], path)
    default_fps = content.get("fps")
    videos = {
        video_id: _video(video_id, entry, default_fps, path)
        for video_id, entry in content["videos"].items()
    }
    if not videos:
        raise UserError(f"{path}: expected at least one video, found none")
    return Annotations(videos, path)


def _video(video_id: str, entry: Json, default_fps: float | None, path: str) -> VideoAnnotation:
    def refuse(key: str) -> NoReturn:
        value = repr(entry.get(key) if isinstance(entry, dict) else entry)
        value = value if len(value) <= 80 else f"{value[:60]}..."
        raise UserError(
            f"{path}: video {video_id!r}: expected {key} {_EXPECTED[key]}, found {value}; "
            "correct the entry"
        )

    if not isinstance(entry, dict):
        refuse("entry")
    entry = {"fps": default_fps} | entry | {"id": video_id}
    try:
        checked = msgspec.convert(entry, _Entry)
    except (msgspec.ValidationError, OverflowError, UnicodeEncodeError) as error:
        # The error names the place in backticks: `$.fps`, `$.abnormal_frames[0]`, `file`.
        named = re.search(r"`(?:\$\.)?(\w+)[^`]*`$", str(error))
        refuse(named[1] if named and named[1] in _EXPECTED else "entry")
    intervals = checked.abnormal_frames
    if intervals is not None:
        frames = checked.num_frames or alignment.MOST_FRAMES
        if any(not start < end <= frames for start, end in intervals):
            refuse("abnormal_frames")
        if intervals and not checked.label:
            raise UserError(
                f"{path}: video {video_id!r}: expected abnormal_frames empty where label is 0, "
                f"found {list(intervals[0])}; correct the entry"
            )
        if checked.label and not intervals:
            # An abnormal video without a single abnormal frame isn't labelled in time.
            checked = msgspec.structs.replace(checked, abnormal_frames=None)
    return VideoAnnotation(id=video_id, **msgspec.structs.asdict(checked))


def frame_labels(
    video: VideoAnnotation, num_frames: int, path: str = "", scale: float = 1.0
) -> np.ndarray:
    """Makes a video's frame labels: 1 for abnormal frames, 0 for the others.

    Args:
      video: the video's annotation; a normal video needs no intervals.
      num_frames: number of labels; intervals are cut there.
      path: path of the annotations, for messages.
      scale: labelled frames per annotated frame, from `frame_scale`. A frame is abnormal if its
        middle lies in an interval, and each interval has at least one frame.

    Returns:
      uint8 [num_frames].

    Raises:
      UserError: an abnormal video has no intervals, or all of them are past its end.
    """
    labels = np.zeros(num_frames, np.uint8)
    if video.label and video.abnormal_frames is None:
        raise UserError(
            f"{_where(video, path)}: expected abnormal_frames for an abnormal video, found none; "
            "add them to the annotations, because frame-level measures need them"
        )
    intervals = video.abnormal_frames or ()
    for start, end in intervals:
        # Rounded first: 0.1 x 25 / 10 isn't exactly 0.25.
        first, last = (math.ceil(round(edge * scale - 0.5, 6)) for edge in (start, end))
        if first >= last:
            first = int(start * scale)
            last = first + 1
        labels[first:last] = 1
    if intervals and num_frames and not labels.any():
        raise UserError(
            f"{_where(video, path)}: expected abnormal_frames within its "
            f"{num_frames} frames, found {list(intervals[0])}; correct them: they may belong to "
            "another frame rate"
        )
    return labels


def _where(video: VideoAnnotation, path: str) -> str:
    return f"{path}{': ' * bool(path)}video {video.id!r}"


def contradictions(video: VideoAnnotation, num_frames: int, fps: float) -> list[str]:
    """Lists the values of a video's entry that differ from its file's, with both values.

    Args:
      video: the entry.
      num_frames: frames of the file.
      fps: frames per second of the file.
    """
    faults = []
    if video.num_frames not in (None, num_frames):
        faults.append(f"videos.json says {video.num_frames} frames, the file has {num_frames}")
    if video.fps is not None and not _same_rate(video.fps, fps):
        faults.append(f"videos.json says {video.fps:g} fps, the file {fps:g}")
    if end := _past_end(video, num_frames, 1.0):
        faults.append(f"abnormal_frames end at {end}, the file has {num_frames} frames")
    return faults


def frame_scale(
    video: VideoAnnotation,
    num_frames: int,
    fps: float | None,
    path: str = "",
    *,
    slack: int = 0,
    declared_frames: int = 0,
) -> float:
    """Computes how many frames of a file correspond to one frame of its annotation.

    It is 1 if both have the same number of frames, else the quotient of their rates, where the
    annotation's is known.

    Args:
      video: the annotation.
      num_frames: frames of the file.
      fps: frames per second of the file; None if unknown.
      path: path of the annotations, for messages.
      slack: frames by which `num_frames` may be wrong.
      declared_frames: frames that the file's container declares; a damaged file has fewer.

    Raises:
      UserError: an abnormal video whose lengths don't match after that.
    """
    slack = max(2, slack, round(_SAME * num_frames))
    scale = 1.0
    same_frames = video.num_frames is not None and abs(video.num_frames - num_frames) <= slack
    if video.fps and fps and not same_frames and not _same_rate(video.fps, fps):
        scale = fps / video.fps
    if not video.label:
        return scale
    longest = max(num_frames, declared_frames) + slack
    length = num_frames if video.num_frames is None else video.num_frames * scale
    end = _past_end(video, num_frames, scale)
    if num_frames - slack <= length <= longest and end * scale <= longest:
        return scale
    found = f"{video.num_frames} frames" if video.num_frames else f"an event that ends at {end}"
    raise UserError(
        f"{_where(video, path)}: expected annotations of its {num_frames} frames{_at(fps)}, found "
        f"{found}{_at(video.fps)}; give the fps and num_frames of the file that was annotated, or "
        "correct abnormal_frames"
    )


def _at(fps: float | None) -> str:
    return " at an unknown rate" if fps is None else f" at {fps:g} fps"


def _same_rate(left: float, right: float) -> bool:
    return abs(left - right) <= _SAME * max(left, right)


def _past_end(video: VideoAnnotation, num_frames: int, scale: float) -> int:
    """Returns where the last interval ends, if that is past the video's end, else 0."""
    end = max((end for _, end in video.abnormal_frames or ()), default=0)
    return end if end * scale > num_frames + 0.5 else 0
