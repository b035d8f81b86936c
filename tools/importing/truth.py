"""Ground truth of any format to videos.json, and videos.json to the formats of annotation tools."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gvvad_jax.command import UserError, check, option
from gvvad_jax.store import annotations, files
from tools.importing import (
    truth_arrays,
    truth_cvat,
    truth_joining,
    truth_json,
    truth_lists,
    truth_text,
    truth_writing,
    ucf_crime,
)
from tools.importing.truth_entries import TruthEntry
from tools.importing.truth_lists import Listed

FORMATS = ("auto", "ucf", "xd", "npy", "pickle", "mat", "masks", "activitynet", "fiftyone", "cvat",
           "videos")  # fmt: skip
_OUTPUTS = ("videos", "activitynet", "fiftyone", "cvat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruthImport:
    """What to import, and what is known besides."""

    truth: str = option("", "Ground truth: a file, or a folder of several. Required.")
    format: str = option(
        "auto", "Format of the ground truth (default: told by names and content).", choices=FORMATS
    )
    list: str = option(
        "",
        "Lists of the videos, in the order of the ground truth, separated by commas: one path a "
        "line, CSV or videos.json. train=PATH is of another split than its name says.",
    )
    features: str = option(
        "",
        "Folders or lists of test features, whose snippets of 16 frames give the lengths of videos "
        "where no list does.",
    )
    fps: float | None = option(
        None, "Frames per second of all videos, where the ground truth has seconds.", low=0.001
    )
    intervals: str = option(
        "auto",
        "How frames of intervals count: half_open, from 0 without the end; inclusive, from 1 with "
        "it (default: inclusive in .mat files, half_open elsewhere).",
        choices=("auto", "half_open", "inclusive"),
    )
    to: str = option(
        "videos",
        "Format to write: videos (videos.json), activitynet, fiftyone (labels.json) or cvat (a "
        "folder).",
        choices=_OUTPUTS,
    )
    out: str = option("", "Path to write. Required.")

    def __post_init__(self) -> None:
        check(self)
        for name in ("truth", "out"):
            if not getattr(self, name):
                raise UserError(f"--{name}: expected a path, found none; name it")


def import_truth(request: TruthImport) -> dict[str, Any]:
    """Reads a ground truth, joins it with its list, and writes it.

    Returns:
      {out, format, to, convention, train, validation, test, frames, abnormal_frames,
      as_published}: the convention that labels were cut by; the normal and abnormal videos of each
      split; frames of the test videos; the data set whose published sizes the splits have. What
      isn't known is None.

    Raises:
      UserError: what was given is missing, damaged, ambiguous or contradicts itself; nothing was
        written.
    """
    truth_format = request.format if request.format != "auto" else detect(request.truth)
    listed = truth_lists.read(request.list, request.features) if request.list else {}
    convention = None
    if truth_format == "videos" and not listed:
        annotated = annotations.load(request.truth)
    else:
        entries, convention = _read(truth_format, request, listed)
        own_ids = truth_format in ("activitynet", "fiftyone") and not listed
        videos = truth_joining.join(entries, listed, request.truth, request.list, own_ids=own_ids)
        annotated = _annotations(videos, request)
    truth_writing.write(annotated, request.out, request.to, request.fps)
    how = {"format": truth_format, "to": request.to, "convention": convention}
    return {"out": request.out, **how, **truth_writing.summarise(annotated)}


def detect(path: str) -> str:
    """Tells the format of a ground truth by its name and content.

    Raises:
      UserError: there is nothing, or it is none of the known formats.
    """
    if os.path.isdir(path):
        names = [name for _, _, below in os.walk(path) for name in below]
        if any(name.startswith("Temporal_Anomaly_Annotation") for name in names):
            return "ucf"
        for suffix, found in ((".xml", "cvat"), (".mat", "mat")):
            if any(name.endswith(suffix) for name in names):
                return found
        return "masks"
    suffix = pathlib.PurePath(path).suffix.lower()
    files.require_regular(path, "a ground truth")
    known = {".npy": "npy", ".npz": "npy", ".pkl": "pickle", ".pickle": "pickle", ".p": "pickle",
             ".mat": "mat", ".xml": "cvat"}  # fmt: skip
    if suffix in known:
        return known[suffix]
    if suffix == ".json":
        content = files.read_json(path)
        keys = {"database": "activitynet", "labels": "fiftyone", "videos": "videos"}
        found = [keys[key] for key in keys if isinstance(content, dict) and key in content]
        if len(found) == 1:
            return found[0]
    elif suffix in (".txt", ".csv", ".list", ""):
        return "xd" if truth_text.looks_like_xd(path) else "ucf"
    raise UserError(
        f"{path}: expected a ground truth of a known format ({', '.join(FORMATS[1:])}), found "
        "another; say which it is (--format)"
    )


def _read(
    truth_format: str, request: TruthImport, listed: Mapping[str, Listed]
) -> tuple[list[TruthEntry], str | None]:
    """Reads entries; (entries, the convention that labels were cut by)."""
    path = request.truth
    inclusive = request.intervals == "inclusive" or (
        request.intervals == "auto" and truth_format == "mat"
    )
    if truth_format == "ucf" and os.path.isdir(path):
        return ucf_crime.list_videos(path, request.out, inclusive=inclusive), None
    readers: dict[str, Callable[[], np.ndarray | list[TruthEntry]]] = {
        "ucf": lambda: truth_text.read_ucf(path, inclusive=inclusive),
        "xd": lambda: truth_text.read_xd(path, inclusive=inclusive),
        "npy": lambda: truth_arrays.read_npy(path),
        "pickle": lambda: truth_arrays.read_pickle(path, inclusive=inclusive),
        "mat": lambda: truth_arrays.read_mat(path, inclusive=inclusive),
        "masks": lambda: truth_arrays.read_masks(path),
        "activitynet": lambda: truth_json.read_activitynet(path, request.fps),
        "fiftyone": lambda: truth_json.read_fiftyone(path, request.fps),
        "cvat": lambda: truth_cvat.read_cvat(path),
        "videos": lambda: _read_videos(path),
    }
    content = readers[truth_format]()
    tested = [video for video in listed.values() if video.split == "test"]
    if isinstance(content, np.ndarray):
        return truth_joining.cut_by_list(content, tested, path, request.list)
    if content and not content[0].name:
        return truth_joining.named_in_order(content, tested, path, request.list), None
    return truth_joining.fitted(content, listed, path), None


def _read_videos(path: str) -> list[TruthEntry]:
    return [
        TruthEntry(
            name=video.id, intervals=video.abnormal_frames, num_frames=video.num_frames,
            fps=video.fps, label=video.label, cls=video.cls, split=video.split, file=video.file,
        )
        for video in annotations.load(path).videos.values()
    ]  # fmt: skip


def _annotations(videos: Mapping[str, Any], request: TruthImport) -> annotations.Annotations:
    content = {"videos": dict(videos)}
    for entry in content["videos"].values():
        if request.fps is not None:
            entry.setdefault("fps", request.fps)
    try:
        return annotations.from_json(content, request.truth)
    except UserError as error:
        raise UserError(f"{error} (as read from {request.truth})") from error
