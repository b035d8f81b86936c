"""What a store's rows were made from: digests of videos, their descriptions and their source."""

import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import tqdm

from generation import ranks
from generation.encoders import banks
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.files import read_json_as, write_json
from gvvad_jax.store.format import STAND_IN
from gvvad_jax.store.reader import read_manifest
from gvvad_jax.store.salvage import is_sound, outdated

if TYPE_CHECKING:
    from generation.prompts.descriptions import Description

# Beside the manifest: facts about the encoding on which combined stores need not agree.
_NOTES = "encoding.json"
_DESCRIPTION_FIELDS = ("description", "phrase", "twin", "seed")


def video_digests(
    videos: annotations.Annotations, descriptions: "Mapping[str, Description]", source: str
) -> dict[str, str]:
    """Returns a digest by video id; a video whose digest changes is encoded again.

    The digest depends on the whole content of the file or of each frame of a folder, on the frame
    rate that the list gives, on the description and on the source, but not on paths and dates. A
    file that can't be read has one too, and is quarantined when it is encoded.

    Args:
      videos: the videos.
      descriptions: descriptions of generated videos by video id.
      source: "real" or "synthetic".
    """
    ids = list(videos.videos)
    # Each rank begins elsewhere, so that it finds what the others have read in the cache.
    rank, size = ranks.rank_and_size()
    start = rank * len(ids) // size
    digest_by_id = {}
    for video_id in tqdm.tqdm(
        ids[start:] + ids[:start], "digest", leave=False, unit="video", disable=None, delay=2
    ):
        video = videos.videos[video_id]
        path = videos.resolve(video)
        digest_by_id[video_id] = _digest(path, video, descriptions.get(video_id), source)
    return digest_by_id


def descriptions_by_id(prompts_path: str | os.PathLike | None) -> "dict[str, Description]":
    """Reads the descriptions of generated videos, by video id; {} without a file."""
    if prompts_path is None:
        return {}
    from generation.prompts.descriptions import load_descriptions

    return {description.id: description for description in load_descriptions(prompts_path)}


def require_descriptions(
    video_ids: Iterable[str],
    descriptions: "Mapping[str, Description]",
    prompts_path: str | os.PathLike | None,
) -> None:
    """Raises UserError if a video that is to be captioned by its description has none."""
    missing = sorted(set(video_ids) - set(descriptions))
    if missing:
        raise UserError(
            f"--prompts: expected a description of each video for --captioner={STAND_IN}, "
            f"found {prompts_path or 'no file'} without {missing[0]!r}; give the prompts.jsonl "
            "that the videos were generated from"
        )


def is_finished(
    path: str | os.PathLike,
    fingerprint: Mapping[str, Any],
    videos: annotations.Annotations,
    digest_by_id: Mapping[str, str],
) -> bool:
    """Returns whether the store of these options and videos is already finished, and not damaged.

    Args:
      path: the store's folder.
      fingerprint: result of EncodeOptions.fingerprint.
      videos: the videos.
      digest_by_id: result of `video_digests`.
    """
    path = pathlib.Path(path)
    if not (path / _NOTES).exists() or (path / "parts").exists():
        return False
    if not is_sound(path):
        return False
    try:
        has_text = read_manifest(path).text is not None
        stored_videos = annotations.load(path / "videos.json").videos
        changed = outdated(path, digest_by_id)
    except UserError:  # The writer repairs what it can make again, and reports the rest.
        return False
    if has_text and not banks.is_whole(path):
        return False  # It is written again.
    notes = _read_notes(path / _NOTES)
    used = {key: notes.get(key) or {} for key in ("weights", "names")}
    return (
        notes.get("options") == fingerprint["options"]
        # Content counts. A checkpoint that was removed is the one that was used, by its name.
        and all(
            digest == used["weights"].get(key)
            if digest
            else fingerprint["names"][key] == used["names"].get(key)
            for key, digest in fingerprint["weights"].items()
        )
        and dict(stored_videos) == dict(videos.videos)
        and not changed
    )


def add_notes(path: pathlib.Path, **notes: Any) -> None:
    """Adds values to a store's encoding.json; lists are merged with the lists there."""
    notes_path = path / _NOTES
    old = _read_notes(notes_path)
    content = dict(old)
    for key, value in notes.items():
        if isinstance(value, list):
            value = sorted({*content.get(key, ()), *value})
        content[key] = value
    if content != old:
        write_json(notes_path, content, sort_keys=True)


class _Notes(msgspec.Struct, omit_defaults=True):
    """The values of encoding.json."""

    options: str | None = None
    weights: dict[str, str | None] | None = None
    names: dict[str, str] | None = None
    computed_in: list[str] | None = None


def _read_notes(path: pathlib.Path) -> dict[str, Any]:
    """Reads encoding.json; {} if there is none, or a damaged one, which is then written again."""
    if not path.exists():
        return {}
    try:
        notes = read_json_as(path, _Notes, "notes of an encoding", "they are written again")
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)
        return {}
    return msgspec.to_builtins(notes)


def _digest(
    path: pathlib.Path,
    video: annotations.VideoAnnotation,
    description: "Description | None",
    source: str,
) -> str:
    if path.is_dir():
        from generation.media import containers, image_folders

        try:
            frames = image_folders.list_images(path)
        except containers.UnreadableError:  # The row tells, or the quarantine.
            frames = []
    else:
        frames = [path]
    facts = {
        "source": source,
        "description": description and [getattr(description, n) for n in _DESCRIPTION_FIELDS],
        "fps": video.fps,
        "content": [_content(frame) for frame in frames],
    }
    return digests.of_json(facts)


def _content(path: pathlib.Path) -> str:
    """Returns a file's digest, or why it has none: once it can be read, it counts as changed."""
    # A pipe would be waited for, and a device read without end.
    if path.exists() and not path.is_file():
        return "no regular file"
    try:
        return digests.of_file(path)
    except OSError as error:
        return f"unreadable: {error.errno}"
