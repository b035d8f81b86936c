"""What a store's row was made of: the video's content, the prompt record, whether it is real."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.files import read_json, write_atomically
from gvvad_jax.store.format import STAND_IN
from gvvad_jax.store.writer import outdated

# Beside the manifest: what made the store, as far as stores needn't agree on it.
_MADE_BY = "encoding.json"
# Of a file; of a folder of frames, so many files.
_SAMPLE_BYTES = 64 << 10
_SAMPLE_FRAMES = 16
_OF_RECORD = ("description", "phrase", "twin", "seed")


def made_of(
    videos: annotations.Annotations, records: Mapping[str, Any], source: str
) -> dict[str, str]:
    """A digest by video id: another one, another row. Cheap, and without paths and dates.

    Args:
      videos: whose files are looked at, by size, first and last bytes.
      records: prompts.Description by video id, where given.
      source: real or synthetic.

    Raises:
      UserError: a file can't be read.
    """
    return {
        video.id: _digest(videos.resolve(video), video, records.get(video.id), source)
        for video in videos.videos.values()
    }


def descriptions(prompts_path: str | os.PathLike | None) -> dict[str, Any]:
    """The records of generated videos, by video id."""
    if prompts_path is None:
        return {}
    from generation.prompts.descriptions import load_descriptions

    return {record.id: record for record in load_descriptions(prompts_path)}


def require_descriptions(
    videos: Iterable[str], records: Mapping[str, Any], prompts_path: str | os.PathLike | None
) -> None:
    """For text rows that are of the phrases that videos were generated from."""
    missing = sorted(set(videos) - set(records))
    if missing:
        raise UserError(
            f"--prompts: expected a description of each video for --captioner={STAND_IN}, "
            f"found {prompts_path or 'no file'} without {missing[0]!r}; give the prompts.jsonl "
            "that the videos were generated from"
        )


def is_made_by(
    path: str | os.PathLike,
    ours: Mapping[str, Any],
    videos: annotations.Annotations,
    made_of: Mapping[str, str],
) -> bool:
    """Whether there is a finished store of these options, videos and what they are made of.

    Args:
      path: the store's folder.
      ours: recipe.Options.fingerprint.
      videos, made_of: see above.
    """
    path = pathlib.Path(path)
    if not (path / _MADE_BY).exists() or (path / "parts").exists():
        return False
    kept = annotations.load(path / "videos.json")
    noted = read_json(path / _MADE_BY)
    weights = noted.get("weights", {})
    return (
        noted.get("options") == ours["options"]
        # A checkpoint that is gone is taken for the one that was here.
        and all(d in (None, weights.get(key)) for key, d in ours["weights"].items())
        and dict(kept.videos) == dict(videos.videos)
        and not outdated(path, made_of)
    )


def note(path: pathlib.Path, **noted: Any) -> None:
    """Adds to encoding.json; values that are lists to those that are there."""
    made_by = path / _MADE_BY
    content = read_json(made_by) if made_by.exists() else {}
    for key, value in noted.items():
        if isinstance(value, list):
            value = sorted({*content.get(key, ()), *value})
        content[key] = value
    written = (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
    if not made_by.exists() or made_by.read_bytes() != written:
        write_atomically(made_by, written)


def _digest(path: pathlib.Path, video: Any, record: Any, source: str) -> str:
    try:
        return _read_digest(path, video, record, source)
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: expected the file of video {video.id!r}, found one that "
            f"can't be read ({error.strerror}); make it readable or remove the video's entry"
        ) from error


def _read_digest(path: pathlib.Path, video: Any, record: Any, source: str) -> str:
    facts: list[Any] = [
        source,
        None if record is None else [getattr(record, k) for k in _OF_RECORD],
    ]
    digest = hashlib.sha256()
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
    digest.update(json.dumps(facts).encode())
    for sample in samples:
        _, first, last = digests.read_ends(sample, _SAMPLE_BYTES)
        digest.update(first + last)
    return digest.hexdigest()[:16]
