"""Joins labels in time with the list of their videos."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax import conventions
from gvvad_jax.command import UserError
from tools.importing import truth_cutting, truth_lists
from tools.importing.lists import label_in_name
from tools.importing.truth_entries import TruthEntry, find_intervals
from tools.importing.truth_lists import Listed


def join(
    entries: Sequence[TruthEntry],
    listed: Mapping[str, Listed],
    path: str,
    spec: str,
    *,
    own_ids: bool = False,
) -> dict[str, dict[str, Any]]:
    """Joins entries with their list, by id; returns the entries of a videos.json.

    Test videos need labels in time; those that a list or their names say are normal don't. Videos
    that the list lacks are left out, which is reported.

    Args:
      entries: the ground truth.
      listed: the list's videos by id; empty if there is no list.
      path: the ground truth's file, for messages.
      spec: the list, for messages.
      own_ids: whether names are ids, and not names of files.

    Raises:
      UserError: a video is there twice, has no label, or is normal by one and abnormal by the
        other.
    """
    by_id: dict[str, TruthEntry] = {}
    for entry in entries:
        video_id = entry.name if own_ids else truth_lists.video_id(entry.name)
        if video_id in by_id:
            raise UserError(
                f"{path}: expected each video once, found {video_id!r} again; remove one"
            )
        by_id[video_id] = entry
    if not listed:
        return {i: _video(i, entry, None, path) for i, entry in by_id.items()}
    unlisted = [i for i in by_id if i not in listed]
    if len(unlisted) == len(by_id):
        raise UserError(
            f"{path}: expected the videos of {spec}, such as {next(iter(listed))!r}, found others, "
            f"such as {unlisted[0]!r}; give the list that belongs to it"
        )
    if unlisted:
        print(
            f"{path}: {len(unlisted)} videos aren't in {spec} and are left out, {unlisted[0]!r} "
            "first",
            file=sys.stderr,
        )
    bare = [v.id for v in listed.values() if v.split == "test" and v.id not in by_id and v.label]
    if bare:
        raise UserError(
            f"{path}: expected labels of every abnormal test video of {spec}, found none of "
            f"{len(bare)}, {bare[0]!r} first; give the ground truth that belongs to it"
        )
    return {i: _video(i, by_id.get(i), video, path) for i, video in listed.items()}


def _video(
    video_id: str, entry: TruthEntry | None, video: Listed | None, path: str
) -> dict[str, Any]:
    """The entry of a videos.json."""
    entry = entry or TruthEntry(name=video_id)
    where = f"{path}: video {video_id!r}"
    in_name = label_in_name(video.path if video else entry.name) or (None, None)
    said = video.label if video and video.label is not None else in_name[0]
    if entry.label == 0 or (entry.label is not None and not entry.intervals):
        said = entry.label
    if said == 0 and entry.intervals:
        start, end = entry.intervals[0]
        raise UserError(
            f"{where}: expected no abnormal frame, because its name or list says normal, found "
            f"frames {start} to {end}; give the list that belongs to it, in its order"
        )
    label = 1 if entry.intervals else said
    if label is None and entry.intervals is not None:
        label = 0
    if label is None:
        raise UserError(
            f"{where}: expected a label, found none in its lists and name; give a list with "
            "path,label"
        )
    split = (video.split if video else entry.split) or "test"
    intervals = entry.intervals
    if intervals is None and not label and split == "test":
        intervals = ()
    cls = (entry.cls or (video.cls if video else None) or in_name[1]) if label else entry.cls
    content = {
        "file": entry.file or (video.path if video else entry.name),
        "label": label,
        "class": cls,
        "split": split,
        "fps": (video.fps if video else None) or entry.fps,
        "num_frames": (video.num_frames if video else None) or entry.num_frames,
        "abnormal_frames": None if intervals is None else [list(pair) for pair in intervals],
    }
    return {key: value for key, value in content.items() if value is not None}


def cut_by_list(
    labels_N: np.ndarray, tested: Sequence[Listed], path: str, spec: str
) -> tuple[list[TruthEntry], str]:
    """Cuts the labels of all test videos by the lengths that their list says."""
    known = conventions.circulating(len(labels_N))
    if not tested:
        raise UserError(
            f"{path}: expected the list of the test videos whose labels these "
            f"{len(labels_N)} are{known}, found none; give --list, in their order, and --features "
            "where it has no frames"
        )
    lengths = [
        truth_cutting.Length(id=video.id, num_frames=video.num_frames, rows=video.rows)
        for video in tested
    ]
    by_id, convention = truth_cutting.cut(labels_N, lengths, path, spec)
    entries = [
        TruthEntry(name=i, intervals=find_intervals(labels_F), num_frames=len(labels_F))
        for i, labels_F in by_id.items()
    ]
    return _without_marks(entries, tested, path), convention


def _without_marks(
    entries: list[TruthEntry], tested: Sequence[Listed], path: str
) -> list[TruthEntry]:
    """Leaves out the one frame that TAD's circulating file marks in every normal video."""
    normal = {video.id for video in tested if video.label == 0}
    marked = [
        entry.name
        for entry in entries
        if entry.name in normal and entry.intervals and _count(entry) == 1
    ]
    if not normal or len(marked) < len(normal):
        return entries
    print(
        f"{path}: one frame of every normal video is marked, as in TAD's ground truth that "
        "circulates; these frames are taken as normal",
        file=sys.stderr,
    )
    return [dataclasses.replace(e, intervals=()) if e.name in marked else e for e in entries]


def _count(entry: TruthEntry) -> int:
    return sum(end - start for start, end in entry.intervals or ())


def named_in_order(
    entries: Sequence[TruthEntry], tested: Sequence[Listed], path: str, listed: str
) -> list[TruthEntry]:
    """Gives entries without a name those of the list's test videos."""
    if not tested:
        raise UserError(
            f"{path}: expected the list of the {len(entries)} test videos whose labels these are, "
            "found none; give --list, in their order"
        )
    if len(entries) != len(tested):
        raise UserError(
            f"{path}: expected labels of the {len(tested)} test videos of {listed}, found those of "
            f"{len(entries)}; give the list that belongs to it"
        )
    return [
        _fit(dataclasses.replace(entry, name=video.id), video, f"{path}: video {video.id!r}")
        for entry, video in zip(entries, tested, strict=True)
    ]


def fitted(
    entries: Sequence[TruthEntry], listed: Mapping[str, Listed], path: str
) -> list[TruthEntry]:
    """Fits the frames of named entries to their list."""
    result = []
    for entry in entries:
        video = listed.get(truth_lists.video_id(entry.name))
        where = f"{path}: video {entry.name!r}"
        result.append(_fit(entry, video, where) if video else entry)
    return result


def _fit(entry: TruthEntry, video: Listed, where: str) -> TruthEntry:
    """Fits an entry's frames to those that the list says."""
    if video.num_frames is None or entry.num_frames in (None, video.num_frames):
        return entry
    labels_F = np.zeros(entry.num_frames or 0, bool)
    for start, end in entry.intervals or ():
        labels_F[start:end] = True
    fitted_F, _ = truth_cutting.fit_one(labels_F, video.num_frames, where)
    return dataclasses.replace(
        entry, intervals=find_intervals(fitted_F), num_frames=video.num_frames
    )
