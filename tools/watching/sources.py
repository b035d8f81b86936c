"""What a command line of videos names: files, folders, globs, lists; see addresses.py, too."""

import dataclasses
import glob
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.annotations import Annotations, VideoAnnotation

# Files of a folder that are taken for videos. A file that is named itself may have any ending.
SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".flv", ".wmv", ".asf", ".3gp", ".ogv", ".mxf", ".dav", ".h264", ".h265", ".hevc", ".ivf",
))  # fmt: skip
# Letters of an output's name besides letters and digits of any language.
_KEPT = " -_.,()+"
_MOST_BYTES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A video to score.

    Attributes:
      path: the file, or a folder of frames that a list names.
      given: how the command line names it, for people; in a folder or list, with that.
      annotation: its entry in the list that named it, or in --annotations; None without one.
      listed: that list.
    """

    path: pathlib.Path
    given: str
    annotation: VideoAnnotation | None = None
    listed: Annotations | None = None

    @property
    def place(self) -> str:
        """Identifies the file on this machine without telling where it lies."""
        return hashlib.sha256(os.fsencode(os.path.abspath(self.path))).hexdigest()[:16]


def find(arguments: Sequence[str], truth: str = "") -> list[VideoFile]:
    """Lists the videos that a command line names, each once, in its order.

    Args:
      arguments: files, folders (with all below them), globs, and lists in the form of videos.json.
      truth: a videos.json that says what is abnormal in them; empty for none.

    Raises:
      UserError: an argument that names no video.
    """
    if not arguments:
        raise UserError("VIDEO: expected a file, a folder or a source, found none; name one")
    found: dict[str, VideoFile] = {}
    for argument in arguments:
        for video in _of(argument):
            # The first naming counts; one with truth is better than one without.
            key = os.path.realpath(video.path)
            if key not in found or (video.annotation and not found[key].annotation):
                found[key] = video
    return _with_truth(list(found.values()), truth) if truth else list(found.values())


def _of(argument: str) -> list[VideoFile]:
    """Returns the videos of one argument, at least one."""
    if os.path.isdir(argument):
        return _in_folder(pathlib.Path(argument))
    if os.path.lexists(argument):
        if argument.lower().endswith(".json"):
            listed = annotations.load(argument)
            return [
                VideoFile(
                    path=listed.resolve(video),
                    given=f"{argument}: {video.id}",
                    annotation=video,
                    listed=listed,
                )
                for video in listed.videos.values()
            ]
        return [VideoFile(path=pathlib.Path(argument), given=argument)]
    names = sorted(glob.glob(argument, recursive=True))
    if not names:
        raise UserError(
            f"{argument}: expected a video, a folder, a list or a glob, found nothing there; "
            "correct the path"
        )
    files = [name for name in names if not os.path.isdir(name)]
    if not files:
        return [video for name in names for video in _in_folder(pathlib.Path(name))]
    return [video for name in files for video in _of(name)]


def _in_folder(folder: pathlib.Path) -> list[VideoFile]:
    """Returns the videos below a folder; raises UserError if there is none.

    A link that leads out of the folder isn't followed.
    """
    paths = sorted(_walk(folder))
    if paths:
        return [VideoFile(path=path, given=str(path)) for path in paths]
    lists = sorted(path.name for path in folder.glob("*.json"))
    remedy = f"name the list {folder / lists[0]}" if lists else "name another folder, or a file"
    raise UserError(
        f"{folder}: expected videos ({', '.join(sorted(SUFFIXES)[:6])} ...) in it or below, found "
        f"none; {remedy} (frames as pictures need a list, see docs/features.md)"
    )


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    inside = os.path.realpath(folder)
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = pathlib.Path(root, name)
            if path.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            if path.is_symlink() and not pathlib.Path(os.path.realpath(path)).is_relative_to(
                inside
            ):
                continue
            yield path


def _with_truth(videos: Sequence[VideoFile], truth: str) -> list[VideoFile]:
    """Adds the entries of a videos.json: those of the same file, or else of the same name.

    Raises:
      UserError: the list has none of the videos.
    """
    listed = annotations.load(truth)
    by_file = {os.path.realpath(listed.resolve(v)): v for v in listed.videos.values()}
    matched = []
    for video in videos:
        entry = by_file.get(os.path.realpath(video.path)) or listed.videos.get(video.path.stem)
        if entry:
            video = dataclasses.replace(video, annotation=entry, listed=listed)
        matched.append(video)
    if not any(video.annotation for video in matched):
        raise UserError(
            f"--annotations={truth}: expected entries of the videos at hand, found none of the "
            f"same file or with the id {videos[0].path.stem!r}; correct the list, or leave it out"
        )
    return matched


def plain_name(text: str) -> str:
    """Returns a text as the name of a file: letters, digits and a few signs, at most 100 bytes."""
    kept = "".join(letter if letter.isalnum() or letter in _KEPT else "_" for letter in text)
    kept = kept.strip(" .").encode("utf-8", "replace")[:_MOST_BYTES].decode("utf-8", "ignore")
    return kept.strip(" .") or "video"


def output_name(video: VideoFile, taken: dict[str, str]) -> str:
    """Returns the name of a video's outputs, and takes it.

    It is the file's name without its ending; where another video has that already, with a few
    digits that tell the place of the file.

    Args:
      video: the video.
      taken: the place of the video by each name that is taken, in lower case, because file systems
        may not tell cases apart.
    """
    plain = plain_name(video.path.stem if video.path.suffix else video.path.name)
    for name in (plain, f"{plain}-{video.place[:6]}", f"{plain}-{video.place}"):
        if taken.setdefault(name.casefold(), video.place) == video.place:
            return name
    raise AssertionError("two files of one place")
