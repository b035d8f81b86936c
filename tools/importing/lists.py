"""List files of data sets, and what the names in them say of a video. numpy isn't needed.

Lists circulate as one path a line, as `path label`, `path frames label` and as CSV, with either
line end, with and without a byte order mark, a header or `_x264` in the names.
"""

import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_text, shorten

FEATURE_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mat")
# XD-Violence's codes; a video may have several, the most important one first.
XD_CLASSES = {
    "A": "Normal",
    "B1": "Fighting",
    "B2": "Shooting",
    "B4": "Riot",
    "B5": "Abuse",
    "B6": "CarAccident",
    "G": "Explosion",
}
UCF_CRIME_CLASSES = (
    *("Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting"),
    *("RoadAccidents", "Robbery", "Shooting", "Shoplifting", "Stealing", "Vandalism"),
)

# Numbers up to this in a list's column are classes, not frames.
_MOST_CLASSES = 64
_SUFFIX = re.compile(
    rf"({'|'.join(re.escape(s) for s in (*FEATURE_SUFFIXES, *VIDEO_SUFFIXES))})$", re.IGNORECASE
)
_PATH_THEN_COLUMNS = re.compile(
    rf"^(.*?({'|'.join(re.escape(s) for s in (*FEATURE_SUFFIXES, *VIDEO_SUFFIXES))}))\s+(.+)$",
    re.IGNORECASE,
)
# What encoders and extractors append to a video's name.
_ADDED = re.compile(
    r"[_-](x264|i3d|c3d|rgb|clip|swin|emb|embs|embedding|embeddings|text|txt|caption|captions|"
    r"feat|feats|feature|features)$",
    re.IGNORECASE,
)
_HEADERS = {
    "path": ("path", "file", "filename", "feature", "features", "video", "name", "id"),
    "label": ("label", "labels", "class", "category"),
    "split": ("split", "subset"),
    "num_frames": ("num_frames", "frames", "n_frames", "frame_count", "length"),
    "fps": ("fps",),
}
_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("val", "validation", "valid"), "validation"),
}
_XD_LABEL = re.compile(r"(?:^|label_)((?:A|B[12456]|G|0)(?:-(?:A|B[12456]|G|0))*)$")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
      path: the path or name, with forward slashes.
      line: its line's number, from 1.
      label: 1 abnormal, 0 normal; None if the line doesn't say.
      cls: the class, e.g. "Fighting"; None if the line doesn't say, or for a normal video.
      split: train, validation or test; None if the line doesn't say.
      num_frames: frames of the video; None if the line doesn't say.
      fps: frames per second; None if the line doesn't say.
    """

    path: str
    line: int
    label: int | None = None
    cls: str | None = None
    split: str | None = None
    num_frames: int | None = None
    fps: float | None = None


def video_id(name: str) -> str:
    """Returns the id by which both importers know a video: the same for all names of it.

    Folders, suffixes of files and what extractors append (`_x264`, `_i3d`, `_emb`) are dropped:
    `Abuse/Abuse028_x264.mp4` and `Abuse028_x264_i3d.npy` are both `Abuse028`.
    """
    stem = _SUFFIX.sub("", name.replace("\\", "/").rstrip("/").rpartition("/")[2])
    while (shorter := _ADDED.sub("", stem)) != stem and shorter:
        stem = shorter
    return stem


def read(path: str | os.PathLike) -> list[Entry]:
    """Reads a list.

    Args:
      path: one path or name a line, alone or followed by a label, a class or a number of frames,
        separated by spaces, tabs or commas; or a CSV with a header.

    Returns:
      An entry for each line that isn't empty.

    Raises:
      UserError: the file is missing, no text or empty, or a line has values that no list has.
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(read_text(path, "a list of files, one a line").split("\n"), 1)
        if line.strip()
    ]
    rows = [(number, _columns(line, path, number)) for number, line in lines]
    names: Sequence[str | None] = ()
    header = [_header(column) for column in rows[0][1]] if rows else []
    # One word alone may be a name, too, but a name isn't followed by others.
    if "path" in header and (len(header) > 1 or len(rows) > 1):
        names = header
        del rows[0]
    if not rows:
        raise UserError(f"{path}: expected a list of files, one a line, found none; give another")
    if not names:
        names = _guess([columns for _, columns in rows])
    return [_entry(columns, names, path, number) for number, columns in rows]


def _columns(line: str, path: str | os.PathLike, number: int) -> list[str]:
    if _SUFFIX.search(line) and "," not in line:
        return [line]
    if "," in line:
        try:
            return [cell.strip() for cell in next(csv.reader([line]))]
        except (csv.Error, StopIteration) as error:
            raise UserError(
                f"{path}: line {number}: expected comma-separated values, found {shorten(line)} "
                f"({error}); correct it"
            ) from error
    if "\t" in line:
        return [cell.strip() for cell in line.split("\t")]
    if match := _PATH_THEN_COLUMNS.match(line):
        return [match[1], *match[3].split()]
    # A name without a suffix may hold spaces; numbers after it are columns.
    match = re.match(r"^(.*?)((?:\s+-?\d+)*)$", line)
    return [match[1], *match[2].split()] if match and match[1] else [line]


def _header(cell: str) -> str | None:
    return next((name for name, words in _HEADERS.items() if cell.lower() in words), None)


def _guess(rows: Sequence[Sequence[str]]) -> list[str | None]:
    """Names the columns of a list without a header by their values."""
    width = max(len(row) for row in rows)
    names: list[str | None] = ["path"]
    for index in range(1, width):
        values = [row[index] for row in rows if len(row) > index]
        numbers = all(re.fullmatch(r"-?\d+", value) for value in values)
        if all(value.lower() in _SPLITS for value in values):
            name = "split"
        elif not numbers or all(value in ("0", "1") for value in values):
            name = "label"
        elif width <= 4 and min(map(int, values)) > 0 and max(map(int, values)) > _MOST_CLASSES:
            name = "num_frames"
        else:  # A class's number, or frames of intervals, which are no lists' business.
            names.append(None)
            continue
        # A second column of frames may be a class's number or an interval's end.
        names.append(name if name not in names else None)
    return names


def _entry(
    columns: Sequence[str], names: Sequence[str | None], path: str | os.PathLike, number: int
) -> Entry:
    cells = {name: cell for name, cell in zip(names, columns, strict=False) if name and cell}
    where = f"{path}: line {number}"
    if "path" not in cells:
        raise UserError(f"{where}: expected a path, found none; correct it")
    label, cls = (None, None) if "label" not in cells else label_of(cells["label"])
    split = cells.get("split")
    if split is not None and split.lower() not in _SPLITS:
        raise UserError(f"{where}: expected train, validation or test, found {shorten(split)}")
    frames, fps = cells.get("num_frames"), cells.get("fps")
    try:
        num_frames = None if frames is None else int(frames)
        rate = None if fps is None else float(fps)
    except ValueError:
        num_frames, rate = -1, None
    if (num_frames is not None and not 0 < num_frames < 1 << 24) or (
        rate is not None and not 0 < rate < 1e6
    ):
        raise UserError(
            f"{where}: expected a positive number of frames and a rate, found "
            f"{shorten(f'{frames or fps}')}; correct the line"
        )
    return Entry(
        path=cells["path"].replace("\\", "/"),
        line=number,
        label=label,
        cls=cls,
        split=None if split is None else _SPLITS[split.lower()],
        num_frames=num_frames,
        fps=rate,
    )


def label_of(word: str) -> tuple[int, str | None]:
    """Returns (label, class) of a label as lists have it: 0, 1, Normal, a class, XD's codes."""
    if word in ("0", "1"):
        return int(word), None
    if codes := _XD_LABEL.search(word):
        return _of_codes(codes[1])
    if word.lower().startswith("normal") or word.lower().endswith("normal_videos_anomaly"):
        return 0, None
    return 1, None if word.lower() in ("abnormal", "anomaly", "anomalous") else word


def _of_codes(codes: str) -> tuple[int, str | None]:
    named = [code for code in codes.split("-") if code in XD_CLASSES]
    if not named or named[0] == "A":
        return 0, None
    return 1, XD_CLASSES[named[0]]


def label_in_name(path: str) -> tuple[int, str | None] | None:
    """Returns (label, class) where a path says it as UCF-Crime's and XD-Violence's do, else None.

    A path with a word "normal" is normal, and one with "abnormal" or "anomaly" in a folder's or
    file's name abnormal; UCF-Crime's classes begin its names, XD-Violence's codes end them.
    """
    name = video_id(re.sub(r"__?\d$", "", _SUFFIX.sub("", path)))
    if codes := re.search(r"label_([ABG0-9-]+)$", name):
        return _of_codes(codes[1])
    for cls in UCF_CRIME_CLASSES:
        if re.match(rf"{cls}\d+(?![a-zA-Z0-9])", name):
            return 1, cls
    # The name first, then the folders from the innermost one.
    for part in [name, *reversed(pathlib.PurePosixPath(path.replace("\\", "/")).parts[:-1])]:
        words = re.split(r"[^a-z]+", part.lower())
        if "normal" in words:
            return 0, None
        if {"abnormal", "anomaly", "anomalous"} & set(words):
            return 1, None
    return None


def split_in_name(path: str) -> str | None:
    """Returns the split that a path's innermost folder or file name says, else None."""
    for part in reversed(pathlib.PurePosixPath(path.replace("\\", "/")).parts):
        words = re.findall(r"[a-z]+", part.lower())
        splits = {_SPLITS[word] for word in words if word in _SPLITS}
        # VadCLIP's lists: ..._rgbtest.csv.
        splits |= {"test"} if "rgbtest" in words else set()
        if len(splits) == 1:
            return splits.pop()
    return None
