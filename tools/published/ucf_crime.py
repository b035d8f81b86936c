"""The lists of UCF-Crime as they are distributed, as the content of a videos.json."""

import collections
import os
import pathlib
from typing import Any

from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_text

# Published counts: normal and abnormal videos of each split (Sultani et al., CVPR 2018).
PUBLISHED = {"train": (800, 810), "test": (150, 140)}
_SPLITS = {"train": "Anomaly_Train.txt", "test": "Anomaly_Test.txt"}
_INTERVALS = "Temporal_Anomaly_Annotation*.txt"


def list_videos(root: str | os.PathLike) -> dict[str, Any]:
    """Makes the content of a videos.json.

    Args:
      root: folder that holds the videos and the three lists, at any depth. Videos are looked up by
        name, because the folders of the archive's parts aren't those of its lists.

    Returns:
      {"videos": {id: {file, label, class, split, abnormal_frames}}}. Ids are file names without
      suffix; abnormal_frames are [start, end) and absent from training videos.

    Raises:
      UserError: a list is missing or has a malformed line, a listed video is missing or two
        different files have its name, or a test video has no line of intervals.
    """
    root = pathlib.Path(root)
    paths = collections.defaultdict(list)
    for path in sorted(root.rglob("*.mp4")):
        paths[path.name].append(path)
    intervals = _intervals(_one(root, _INTERVALS))
    videos, missing = {}, []
    for split, name in _SPLITS.items():
        for line in _lines(_one(root, name)):
            file = pathlib.PurePosixPath(line).name
            if not paths[file]:
                missing.append(file)
                continue
            folder = pathlib.PurePosixPath(line).parent.name
            cls = "Normal" if "Normal" in folder else folder
            entry = {
                "file": _listed(paths[file], folder).relative_to(root).as_posix(),
                "label": int(cls != "Normal"),
                "class": cls,
                "split": split,
            }
            if split == "test":
                if file not in intervals:
                    raise UserError(
                        f"{_one(root, _INTERVALS)}: expected a line for {file}, which "
                        f"{name} lists, found none; fetch the published file"
                    )
                if cls != "Normal" and not intervals[file]:
                    raise UserError(
                        f"{_one(root, _INTERVALS)}: expected frames of {cls} in {file}, found "
                        "none; fetch the published file"
                    )
                entry["abnormal_frames"] = intervals[file]
            videos[pathlib.PurePosixPath(file).stem] = entry
    if missing:
        raise UserError(
            f"{root}: expected every listed video, found {len(missing)} missing, {missing[0]!r} "
            "first; unpack all parts of the archive under this folder"
        )
    return {"videos": videos}


def _listed(paths: list[pathlib.Path], folder: str) -> pathlib.Path:
    """Picks the listed one of the files with one name; the archive repeats some videos.

    It is the one in the folder that the list names, else any of copies of the same size.
    """
    named = [path for path in paths if path.parent.name == folder]
    paths = named or paths
    if len({path.stat().st_size for path in paths}) > 1:
        raise UserError(
            f"{paths[0]}: expected files of one name to be the same, found {paths[1]} of another "
            "size; remove the wrong one"
        )
    return paths[0]


def _one(root: pathlib.Path, pattern: str) -> pathlib.Path:
    # The archive has copies of the lists, whose line ends may differ, and empty ones.
    lines = {path: _lines(path) for path in sorted(root.rglob(pattern)) if path.is_file()}
    paths = [path for path in lines if lines[path]]
    if len({tuple(lines[path]) for path in paths}) != 1:
        raise UserError(
            f"{root}: expected one {pattern} under it, found {len(paths)}; the data set's page has "
            "it beside the videos"
        )
    return paths[0]


def _lines(path: pathlib.Path) -> list[str]:
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def _intervals(path: pathlib.Path) -> dict[str, list[list[int]]]:
    """Intervals [start, end) by file name. The list counts from 1, includes the last frame, and has
    -1 for no interval.
    """
    intervals = {}
    for number, line in enumerate(_lines(path), 1):
        name, *numbers = line.split()
        numbers = numbers[1:]
        try:
            pairs = [(int(a), int(b)) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
        except ValueError:
            pairs = []
        if not pairs or any(0 <= end < start for start, end in pairs):
            raise UserError(
                f"{path}, line {number}: expected a name, a class and pairs of frames, found "
                f"{line!r}; correct it"
            )
        intervals[name] = [[max(start - 1, 0), end] for start, end in pairs if end >= 0]
    return intervals
