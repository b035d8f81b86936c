"""The videos that a ground truth belongs to: lists, and the lengths of their features."""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.annotations import SPLITS
from tools.importing import lists

# What a name of one crop's features ends with. Two underscores always mean a crop.
_CROP = re.compile(r"__\d{1,2}$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """A video of a list; what no list says is None.

    Attributes:
      id: the video, as lists.video_id names it.
      path: its path in the list.
      split: train, validation or test.
      label: 1 abnormal, 0 normal.
      cls: class of an abnormal video.
      num_frames: its frames.
      fps: its frames per second.
      rows: the snippets of its features, by layout.
    """

    id: str
    path: str
    split: str
    label: int | None = None
    cls: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)


def video_id(name: str) -> str:
    """Returns the id of a video by any name of it, of its features, and of one crop's."""
    suffix = re.search(r"\.[A-Za-z0-9]{2,5}$", name)
    known = suffix and suffix[0].lower() in (*lists.FEATURE_SUFFIXES, *lists.VIDEO_SUFFIXES)
    stem = name[: suffix.start()] if suffix and known else name
    return lists.video_id(_CROP.sub("", stem))


def read(spec: str, features: str = "") -> dict[str, Listed]:
    """Reads the lists of a data set.

    Args:
      spec: lists (or videos.json files), separated by commas; each may have its split in front
        (train=PATH). Without one, it is what the lines or the list's name say; of several lists
        the others are those of training if one is for testing; otherwise it is test.
      features: folders or lists of features, whose snippets give the videos' lengths.

    Returns:
      The videos by id, in the order of the lists. The crops of a video are one.

    Raises:
      UserError: a list is missing or wrong, or has a video twice.
    """
    videos: dict[str, Listed] = {}
    for path, split in _sources([item for item in spec.split(",") if item]):
        listed = _of_json(path) if path.endswith(".json") else _of_list(path, split)
        for video in listed:
            if other := videos.get(video.id):
                raise UserError(
                    f"{path}: expected each video once, found {video.path!r} beside "
                    f"{other.path!r}, both {video.id!r}; remove one"
                )
            videos[video.id] = video
    return _with_rows(videos, features) if features else videos


def _sources(items: Sequence[str]) -> list[tuple[str, str | None]]:
    """The lists and the splits that their names say, or that the user does."""
    named = []
    for item in items:
        word, equals, rest = item.partition("=")
        given = equals and word in SPLITS
        path = rest if given else item
        named.append((path, word if given else lists.split_in_name(os.path.basename(path))))
    if len(named) > 1 and [split for _, split in named].count("test") == 1:
        named = [(path, split or "train") for path, split in named]
    return named


def _of_json(path: str) -> list[Listed]:
    return [
        Listed(
            id=video_id(video.id), path=video.file, split=video.split, label=video.label,
            cls=video.cls, num_frames=video.num_frames, fps=video.fps,
        )
        for video in annotations.load(path).videos.values()
    ]  # fmt: skip


def _of_list(path: str, split: str | None) -> list[Listed]:
    entries = lists.read(path)
    ids = [video_id(entry.path) for entry in entries]
    crops = _single_crops(ids)
    videos: dict[str, Listed] = {}
    seen: dict[str, str] = {}
    for entry, each in zip(entries, ids, strict=True):
        name, crop = crops.get(each, (each, bool(_CROP.search(pathlib.PurePath(entry.path).stem))))
        if entry.path in seen or (name in videos and not crop):
            raise UserError(
                f"{path}: line {entry.line}: expected each video once, found {name!r} again; "
                "remove the line"
            )
        seen[entry.path] = name
        in_name = lists.label_in_name(entry.path) or (None, None)
        label = in_name[0] if entry.label is None else entry.label
        videos.setdefault(
            name,
            Listed(
                id=name, path=entry.path, split=entry.split or split or "test", label=label,
                cls=(entry.cls or in_name[1]) if label else None, num_frames=entry.num_frames,
                fps=entry.fps,
            ),
        )  # fmt: skip
    return list(videos.values())


def _single_crops(ids: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Ids that are a video's and a crop's, NAME_0 to NAME_9, where every video has as many."""
    split = [re.fullmatch(r"(.+)_(\d)", each) for each in ids]
    if not ids or not all(split):
        return {}
    numbers = collections.defaultdict(set)
    for match in split:
        if match:
            numbers[match[1]].add(int(match[2]))
    count = len(next(iter(numbers.values())))
    if count < 2 or any(each != set(range(count)) for each in numbers.values()):
        return {}
    return {each: (each.rpartition("_")[0], True) for each in ids}


def _with_rows(videos: Mapping[str, Listed], features: str) -> dict[str, Listed]:
    from tools.importing import sources

    found, _ = sources.find(features, "", "features")
    rows: dict[str, dict[str, int]] = {}
    for each in found:
        shape = each.array.shape
        layouts = (
            {"[T, D]": shape[0]}
            if len(shape) == 2
            else {"[T, crops, D]": shape[0], "[crops, T, D]": shape[1]}
            if len(shape) == 3
            else {}
        )
        name = video_id(each.stem)
        for key in (name, name.rpartition("_")[0]) if name not in videos else (name,):
            rows.setdefault(key, layouts)
    missing = [i for i, video in videos.items() if video.split == "test" and i not in rows]
    if missing:
        raise UserError(
            f"--features={features}: expected features of every test video, found none of "
            f"{len(missing)}, {missing[0]!r} first; name the folder of the test features"
        )
    return {i: dataclasses.replace(v, rows=rows.get(i, {})) for i, v in videos.items()}
