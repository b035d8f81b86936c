"""What a store's rows were made from: digests of videos, their descriptions and their source."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.files import read_json, write_json
from gvvad_jax.store.format import STAND_IN
from gvvad_jax.store.writer import outdated

if TYPE_CHECKING:
    from generation.prompts.descriptions import Description

# Beside the manifest: facts about the encoding on which combined stores need not agree.
_NOTES = "encoding.json"
# Bytes read at each end of a file, and number of files sampled from a folder of images.
_SAMPLE_BYTES = 64 << 10
_SAMPLE_FRAMES = 16
_DESCRIPTION_FIELDS = ("description", "phrase", "twin", "seed")


def video_digests(
    videos: annotations.Annotations, descriptions: "Mapping[str, Description]", source: str
) -> dict[str, str]:
    """Returns a digest by video id; a video whose digest changes is encoded again.

    The digest depends on the file's size, first and last bytes, on the description and on the
    source, but not on paths and dates.

    Args:
      videos: the videos.
      descriptions: descriptions of generated videos by video id.
      source: "real" or "synthetic".

    Raises:
      UserError: a file cannot be read.
    """
    return {
        video.id: _digest(videos.resolve(video), video, descriptions.get(video.id), source)
        for video in videos.videos.values()
    }


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
    """Returns whether the store of these options and videos is already finished.

    Args:
      path: the store's folder.
      fingerprint: result of EncodeOptions.fingerprint.
      videos: the videos.
      digest_by_id: result of `video_digests`.
    """
    path = pathlib.Path(path)
    if not (path / _NOTES).exists() or (path / "parts").exists():
        return False
    stored_videos = annotations.load(path / "videos.json").videos
    notes = read_json(path / _NOTES)
    weights = notes.get("weights", {})
    return (
        notes.get("options") == fingerprint["options"]
        # A checkpoint that has been removed is assumed to be the one that was used.
        and all(d in (None, weights.get(key)) for key, d in fingerprint["weights"].items())
        and dict(stored_videos) == dict(videos.videos)
        and not outdated(path, digest_by_id)
    )


def add_notes(path: pathlib.Path, **notes: Any) -> None:
    """Adds values to a store's encoding.json; lists are merged with the lists there."""
    notes_path = path / _NOTES
    old = read_json(notes_path) if notes_path.exists() else None
    content = dict(old or {})
    for key, value in notes.items():
        if isinstance(value, list):
            value = sorted({*content.get(key, ()), *value})
        content[key] = value
    if content != old:
        write_json(notes_path, content, sort_keys=True)


def _digest(
    path: pathlib.Path,
    video: annotations.VideoAnnotation,
    description: "Description | None",
    source: str,
) -> str:
    try:
        return _read_digest(path, video, description, source)
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: expected the file of video {video.id!r}, found one that "
            f"can't be read ({error.strerror}); make it readable or remove the video's entry"
        ) from error


def _read_digest(
    path: pathlib.Path,
    video: annotations.VideoAnnotation,
    description: "Description | None",
    source: str,
) -> str:
    facts: list[Any] = [source, None]
    if description is not None:
        facts[1] = [getattr(description, name) for name in _DESCRIPTION_FIELDS]
    if path.is_dir():
        from generation.media import image_folders

        with os.scandir(path) as entries:
            frames = [(e.name, e.stat().st_size) for e in entries if e.is_file()]
        frames.sort(key=lambda frame: image_folders.frame_order(frame[0]))
        facts += [video.fps, frames]
        sampled = range(0, len(frames), -(-len(frames) // _SAMPLE_FRAMES) or 1)
        samples = [path / frames[i][0] for i in sampled]
    else:
        facts.append(path.stat().st_size)
        samples = [path]
    content = bytearray(json.dumps(facts).encode())
    for sample in samples:
        _, first, last = digests.read_ends(sample, _SAMPLE_BYTES)
        content += first + last
    return digests.of_bytes(content)[:16]
