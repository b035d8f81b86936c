"""UCF-Crime as it is distributed: a folder of videos and three lists."""

import collections
import os
import pathlib

from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_text
from tools.importing import truth_lists, truth_text
from tools.importing.truth_entries import TruthEntry

_SPLITS = {"train": "Anomaly_Train.txt", "test": "Anomaly_Test.txt"}
_INTERVALS = "Temporal_Anomaly_Annotation*.txt"


def list_videos(root: str | os.PathLike, out: str, *, inclusive: bool) -> list[TruthEntry]:
    """Lists the videos of both splits, with the intervals of test videos.

    Args:
      root: folder that holds the videos and the three lists, at any depth. Videos are looked up by
        name, because the folders of the archive's parts aren't those of its lists. There may be no
        video at all: features do without.
      out: path of the list to write; files are relative to its folder if they lie below it, else to
        the root.
      inclusive: whether intervals count from 1 and include their end.

    Raises:
      UserError: a list is missing or has a malformed line, a listed video is missing or two
        different files have its name, or a test video has no line of intervals.
    """
    root = pathlib.Path(root)
    paths = collections.defaultdict(list)
    for path in sorted(root.rglob("*.mp4")):
        paths[path.name].append(path)
    annotated = _one(root, _INTERVALS)
    events = {
        truth_lists.video_id(entry.name): entry
        for entry in truth_text.read_ucf(str(annotated), inclusive=inclusive)
    }
    folder = pathlib.Path(os.path.abspath(out)).parent
    base = folder if pathlib.Path(os.path.abspath(root)).is_relative_to(folder) else root
    entries, missing = [], []
    for split, name in _SPLITS.items():
        for line in _lines(_one(root, name)):
            listed = pathlib.PurePosixPath(line)
            if paths and not paths[listed.name]:
                missing.append(listed.name)
                continue
            file = _listed(paths[listed.name], listed.parent.name) if paths else None
            cls = "Normal" if "Normal" in line else listed.parent.name
            event = events.get(truth_lists.video_id(listed.name))
            if split == "test":
                _require_event(event, cls, listed.name, annotated, name)
            intervals = event.intervals if event and split == "test" else None
            entries.append(
                TruthEntry(
                    name=listed.name,
                    intervals=intervals,
                    label=int(cls != "Normal"),
                    cls=cls,
                    split=split,
                    file=os.path.relpath(file, base) if file else line,
                )
            )
    if missing:
        raise UserError(
            f"{root}: expected every listed video, found {len(missing)} missing, {missing[0]!r} "
            "first; unpack all parts of the archive under this folder"
        )
    return entries


def _require_event(
    event: TruthEntry | None, cls: str, file: str, annotated: pathlib.Path, listed: str
) -> None:
    if event is None:
        raise UserError(
            f"{annotated}: expected a line for {file}, which {listed} lists, found none; fetch the "
            "published file"
        )
    if cls != "Normal" and not event.intervals:
        raise UserError(
            f"{annotated}: expected frames of {cls} in {file}, found none; fetch the published file"
        )


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
