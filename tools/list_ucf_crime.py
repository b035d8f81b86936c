"""UCF-Crime as it is distributed -> videos.json.

    python -m tools.list_ucf_crime --root=UCF_Crimes

finds the videos anywhere under ROOT by their names (the folders of the archive's parts aren't those
of its lists), takes the splits from Anomaly_Train.txt and Anomaly_Test.txt and the intervals of the
test videos from Temporal_Anomaly_Annotation*.txt, and writes ROOT/videos.json.
"""

import collections
import json
import os
import pathlib
from typing import Any

from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store.files import write_atomically

# Published counts: normal and abnormal videos of each split (Sultani et al., CVPR 2018).
PUBLISHED = {"train": (800, 810), "test": (150, 140)}
_SPLITS = {"train": "Anomaly_Train.txt", "test": "Anomaly_Test.txt"}
_INTERVALS = "Temporal_Anomaly_Annotation*.txt"


def list_videos(root: str | os.PathLike) -> dict[str, Any]:
    """The content of a videos.json.

    Args:
      root: folder with the videos and the three lists, each anywhere under it.

    Returns:
      {"videos": {id: {file, label, class, split, abnormal_frames}}}; ids are the files' names
      without suffix, intervals [start, end) in frames of a test video and absent in training.

    Raises:
      UserError: a list is missing or has a line that isn't understood, a listed video isn't there
        or is there twice, a test video has no line of intervals.
    """
    root = pathlib.Path(root)
    found = collections.defaultdict(list)
    for path in sorted(root.rglob("*.mp4")):
        found[path.name].append(path)
    intervals = _intervals(_one(root, _INTERVALS))
    videos, missing = {}, []
    for split, name in _SPLITS.items():
        for line in _lines(_one(root, name)):
            file = pathlib.PurePosixPath(line).name
            if not found[file]:
                missing.append(file)
                continue
            folder = pathlib.PurePosixPath(line).parent.name
            cls = "Normal" if "Normal" in folder else folder
            entry = {
                "file": _meant(found[file], folder).relative_to(root).as_posix(),
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
                entry["abnormal_frames"] = intervals[file]
            videos[pathlib.PurePosixPath(file).stem] = entry
    if missing:
        raise UserError(
            f"{root}: expected every listed video, found {len(missing)} missing, {missing[0]!r} "
            "first; unpack all parts of the archive under this folder"
        )
    return {"videos": videos}


def _meant(paths: list[pathlib.Path], folder: str) -> pathlib.Path:
    """Of files with one name (the archive's event recognition part repeats some), the listed one.

    The one in the folder that the list names, else any of copies of the same size.
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
    # There may be copies, and empty ones.
    paths = [path for path in sorted(root.rglob(pattern)) if path.stat().st_size]
    if len({path.read_bytes() for path in paths}) != 1:
        raise UserError(
            f"{root}: expected one {pattern} under it, found {len(paths)}; the data set's page has "
            "it beside the videos"
        )
    return paths[0]


def _lines(path: pathlib.Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text, found something else ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _intervals(path: pathlib.Path) -> dict[str, list[list[int]]]:
    """[start, end) by file. The file counts frames from 1 and includes the last; -1 is none."""
    intervals = {}
    for number, line in enumerate(_lines(path), 1):
        name, _, *numbers = line.split()
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


def main(_) -> None:
    if not _ROOT.value:
        raise UserError("--root: expected the folder of UCF-Crime, found none; give it")
    content = list_videos(_ROOT.value)
    out = pathlib.Path(_ROOT.value) / "videos.json"
    write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
    counts = collections.Counter((v["split"], v["label"]) for v in content["videos"].values())
    summary = {
        split: {"normal": counts[split, 0], "abnormal": counts[split, 1]} for split in PUBLISHED
    }
    complete = all(tuple(summary[split].values()) == PUBLISHED[split] for split in PUBLISHED)
    print(json.dumps({"out": str(out), **summary, "as_published": complete}))


if __name__ == "__main__":
    _ROOT = flags.DEFINE_string("root", None, "Folder with the videos and the three lists.")
    run_command(main, usage=__doc__)
