"""Videos of files of features: their ids, crops, labels and splits."""

import collections
import dataclasses
import fnmatch
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.annotations import VideoAnnotation
from tools.importing import lists
from tools.importing.checks import Fault
from tools.importing.crops import crop_numbers
from tools.importing.sources import Found


@dataclasses.dataclass
class Video:
    """A video, as its files, lists and names describe it.

    Attributes:
      id: its id in the store.
      key: its id by its files' names, by which text is found and faults are told.
      files: its arrays: one, or one for each crop in the order of crops.
      crops: the number of each array's crop; None for an array with all crops.
      name: its path as its source has it, without a crop's number.
      label: 1 abnormal, 0 normal; None until known.
      split: train, validation or test; None until known.
      cls, group, fps, num_frames, abnormal_frames: as in videos.json; None where unknown.
      synthetic: whether it was generated.
    """

    id: str
    key: str
    files: list[Found]
    crops: list[int | None]
    name: str
    label: int | None = None
    split: str | None = None
    cls: str | None = None
    group: str | None = None
    fps: float | None = None
    num_frames: int | None = None
    abnormal_frames: Sequence[Sequence[int]] | None = None
    synthetic: bool = False

    @property
    def source(self) -> tuple[str, str]:
        """Whose layout it shares: the source and the split."""
        return self.files[0].source, "generated" if self.synthetic else self.split or ""


def gather(
    found: Sequence[Found], layout_of: Mapping[str | None, str]
) -> tuple[list[Video], list[Fault]]:
    """Makes videos of arrays.

    Args:
      found: the arrays of all sources.
      layout_of: the layout that the user named, by split, or by None for all.

    Returns:
      (videos in the order of their first arrays, arrays that a video has twice).
    """
    by_source = collections.defaultdict(list)
    for each in found:
        by_source[each.source].append(each)
    videos: dict[str, Video] = {}
    faults = []
    for files in by_source.values():
        forced = layout_of.get(files[0].split, layout_of.get(None))
        for each, (stem, crop) in zip(files, crop_numbers(files, forced), strict=True):
            video_id = lists.video_id(stem)
            name = each.name if crop is None else f"{_folder(each.name)}{stem}"
            video = videos.setdefault(video_id, Video(video_id, video_id, [], [], name))
            others = [f for f, c in zip(video.files, video.crops, strict=True) if c in (None, crop)]
            if others or (video.files and crop is None):
                other = (others or video.files)[0]
                twice = other.array == each.array
                what = f"{video_id} has {'the same file' if twice else other.array} already"
                # The same file twice leaves no doubt about what the video is.
                faults.append(Fault("duplicate", str(each.array), what, "" if twice else video_id))
                continue
            video.files.append(each)
            video.crops.append(crop)
    for video in videos.values():
        order = sorted(range(len(video.files)), key=lambda i: video.crops[i] or 0)
        video.files = [video.files[i] for i in order]
        video.crops = [video.crops[i] for i in order]
    return list(videos.values()), faults


def _folder(name: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return folder + slash


def describe(
    videos: Sequence[Video],
    listed: annotations.Annotations | None,
    *,
    synthetic: str,
    abnormal_first: Sequence[int],
) -> list[Fault]:
    """Fills in what is known of videos, by videos.json, else their list, else their names.

    Args:
      videos: the videos; changed here.
      listed: the videos.json, whose ids they get; None without one.
      synthetic: pattern of names, or list, of generated videos; empty for none.
      abnormal_first: by source, how many videos at its beginning are abnormal.

    Returns:
      Contradictions, and videos of the json that have no features.

    Raises:
      UserError: a label or split isn't known, or no video is generated.
    """
    _mark_generated(videos, synthetic)
    entries = _by_id(listed) if listed else {}
    faults = []
    for video in videos:
        file = video.files[0]
        said = entries.get(video.key)
        _fill(video, file, said)
        if said and file.entry and file.entry.label not in (None, said.label):
            what = f"its list says {file.entry.label}, videos.json {said.label}"
            faults.append(Fault("label", video.name, what, video.key))
        if said and file.split not in (None, said.split):
            what = f"named {file.split}, in videos.json {said.split}"
            faults.append(Fault("split", video.name, what, video.key))
    _count_off(videos, abnormal_first)
    _require_known(videos)
    if listed:
        present = {video.id for video in videos}
        # A split without any features wasn't to be imported.
        splits = {video.split for video in videos}
        faults += [
            Fault("missing", each.id, f"a {each.split} video of {listed.path} without features")
            for each in listed.videos.values()
            if each.split in splits and each.id not in present
        ]
    return faults


def _mark_generated(videos: Sequence[Video], synthetic: str) -> None:
    if not synthetic:
        return
    if os.path.isfile(synthetic):
        ids = {lists.video_id(entry.path) for entry in lists.read(synthetic)}
    else:
        ids = {
            video.id
            for video in videos
            if any(
                fnmatch.fnmatchcase(name, synthetic)
                for name in (video.id, video.name, pathlib.PurePosixPath(video.name).name,
                             f"{video.files[0].source}/{video.name}")
            )
        }  # fmt: skip
    for video in videos:
        video.synthetic = video.id in ids
    if not any(video.synthetic for video in videos):
        raise UserError(
            f"--synthetic={synthetic}: expected a list or a pattern of generated videos' names, "
            f"found none of {len(videos):,} videos, such as {videos[0].name}; correct it"
        )


def _by_id(listed: annotations.Annotations) -> dict[str, VideoAnnotation]:
    """The entries by their ids, and by what is left of these without `_x264` and the like."""
    short = collections.defaultdict(list)
    for each in listed.videos.values():
        short[lists.video_id(each.id)].append(each)
    return {key: each[0] for key, each in short.items() if len(each) == 1} | dict(listed.videos)


def _fill(video: Video, file: Found, said: VideoAnnotation | None) -> None:
    entry = file.entry
    if said:
        video.id, video.label, video.split = said.id, said.label, said.split
        video.cls, video.group, video.fps = said.cls, said.group, said.fps
        video.num_frames, video.abnormal_frames = said.num_frames, said.abnormal_frames
    elif entry and entry.label is not None:
        video.label, video.cls = entry.label, entry.cls
    # A folder's own name may say what the names below it don't.
    path = f"{pathlib.PurePath(file.source).name}/{_relative(video.name)}"
    named = lists.label_in_name(video.name if entry else path)
    if video.label is None and named:
        video.label, video.cls = named
    elif named and named[0] == video.label and not video.cls:
        video.cls = named[1]
    if entry:
        video.num_frames = video.num_frames or entry.num_frames
        video.fps = video.fps or entry.fps
        video.split = video.split or entry.split
    video.split = video.split or file.split or lists.split_in_name(path)
    if video.synthetic:
        video.split = video.split or "train"


def _relative(name: str) -> str:
    return name.lstrip("/")


def _count_off(videos: Sequence[Video], abnormal_first: Sequence[int]) -> None:
    if not abnormal_first:
        return
    by_source = collections.defaultdict(list)
    for video in videos:
        by_source[video.files[0].source].append(video)
    if len(by_source) != len(abnormal_first):
        raise UserError(
            f"--abnormal_first: expected a number for each of {len(by_source)} sources, found "
            f"{len(abnormal_first)}; give one for each, in the order of --visual"
        )
    for (source, members), count in zip(by_source.items(), abnormal_first, strict=True):
        if not 0 <= count <= len(members):
            raise UserError(
                f"--abnormal_first: expected at most the {len(members):,} videos of {source}, "
                f"found {count}; correct it"
            )
        for place, video in enumerate(members):
            label = int(place < count)
            if video.label not in (None, label):
                raise UserError(
                    f"--abnormal_first={count}: expected {video.name} to be "
                    f"{('normal', 'abnormal')[label]}, found the other label in its list, name or "
                    "videos.json; correct the number"
                )
            video.label = label


def _require_known(videos: Sequence[Video]) -> None:
    unknown = [video for video in videos if video.label is None]
    if unknown:
        raise UserError(
            f"expected a label for each video, found {len(unknown):,} whose list and name say "
            f"none, first {unknown[0].name}; give --annotations=videos.json, a CSV path,label, or "
            "--abnormal_first=N where lists begin with N abnormal videos"
        )
    unknown = [video for video in videos if video.split is None]
    if unknown:
        raise UserError(
            f"expected a split for each video, found {len(unknown):,} whose list and name say "
            f"none, first {unknown[0].name}; give --annotations=videos.json, or name the split "
            "before each source: --visual=train=PATH,test=PATH"
        )


def benchmark_of(videos: Sequence[Video]) -> str | None:
    """Returns the data set whose names most videos have, or None."""
    patterns = {
        "ucf-crime": rf"({'|'.join(lists.UCF_CRIME_CLASSES)})\d{{3}}|Normal_Videos_?\d+",
        "xd-violence": r".*_label_[ABG0-9-]+",
        "shanghaitech": r"\d\d_\d{3,4}",
        "ped2": r"(Train|Test)\d{3}",
    }
    for name, pattern in patterns.items():
        matching = sum(bool(re.match(f"^{pattern}", lists.video_id(v.id))) for v in videos)
        if 2 * matching > len(videos):
            return name
    return None
