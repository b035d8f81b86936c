"""A folder of generated videos: a record per video, to resume by, and the list of all.

Ranks communicate only through the folder. errors.json exists from the moment when all videos have
records until a run begins to retry the failed ones.
"""

import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from generation import ranks
from generation.media.writing import write_video
from generation.prompts.descriptions import Description
from generation.videos.backends import Backend, GeneratedVideo
from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from gvvad_jax.store.files import read_json, write_json

# Keys of every record, and further keys of the record of a video that did not fail.
_COMMON_KEYS = {"fingerprint", "error", "label", "class"}
_VIDEO_KEYS = {"num_frames", "fps", "abnormal_frames", "truth"}


def _record_path(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / "clips" / f"{name}.json"


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Reads a video's record; returns None if there is none, raises UserError if it is damaged."""
    try:
        record = read_json(path)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise UserError(f"{error}; remove it, and the video is generated again") from error
    missing = _COMMON_KEYS - set(record) if isinstance(record, dict) else _COMMON_KEYS
    if not missing and record["error"] is None:
        missing = _VIDEO_KEYS - set(record)
    if missing:
        raise UserError(
            f"{path}: expected the record of a video, found one without "
            f"{', '.join(sorted(missing))}; remove it, and the video is generated again"
        )
    return record


def _fingerprint(description: Description, backend: Backend) -> str:
    """Returns the digest of all that a video depends on."""
    return digests.of_json([description.to_json(), dict(backend.settings)])


def is_done(out: pathlib.Path, description: Description, backend: Backend) -> bool:
    """Returns whether a video has been generated; one that failed has not.

    Raises:
      UserError: it was generated with other settings, or its record is damaged.
    """
    record = _read(_record_path(out, description.id))
    if record is None or record["error"] is not None:
        return False
    if record["fingerprint"] != _fingerprint(description, backend):
        raise UserError(
            f"{out}: expected {description.id!r} to be generated with these settings, found "
            "others; give another --out or remove the folder"
        )
    return (out / "videos" / f"{description.id}.mp4").exists()


def begin(out: pathlib.Path, descriptions: Sequence[Description]) -> None:
    """Removes the records of videos to generate again, and the list of all videos.

    The first rank to begin removes the errors of all ranks; otherwise the first to end could take
    the old errors of a rank yet to begin for new ones. Later ranks remove only their own errors,
    from before a kill.
    """
    old_errors = _read_errors(out)
    own_ids = {description.id for description in ranks.share(descriptions)}
    for description in descriptions:
        path = _record_path(out, description.id)
        record = _read(path)
        if record is None:
            continue
        if record["error"] is None:
            is_retried = not (out / "videos" / f"{description.id}.mp4").exists()
        else:
            is_retried = description.id in own_ids or description.id in old_errors
        if is_retried:
            path.unlink(missing_ok=True)
    (out / "videos.json").unlink(missing_ok=True)
    if old_errors and not any((out / "videos").glob("*.mp4")):  # So the weights may change.
        (out / "model.json").unlink(missing_ok=True)
    (out / "errors.json").unlink(
        missing_ok=True
    )  # Last, so that after a kill all of this is repeated.


def _read_errors(out: pathlib.Path) -> dict[str, str]:
    """Reads errors.json; returns {} if there is none, or if another rank just removed it."""
    try:
        return read_json(out / "errors.json")
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise


def generate_batch(out: pathlib.Path, batch: Sequence[Description], backend: Backend) -> None:
    """Generates a batch of videos and writes their records; errors are written as records too."""
    if not batch:
        return
    try:
        outcomes = backend(batch)
    except Exception as error:  # Whatever a model raises affects only these videos.
        outcomes = [error] * len(batch)
    for description, outcome in zip(batch, outcomes, strict=True):
        _write(out, description, outcome, _fingerprint(description, backend))


def _write(
    out: pathlib.Path,
    description: Description,
    outcome: GeneratedVideo | Exception,
    fingerprint: str,
) -> None:
    """Writes a video, then its record: a video without a record is generated again."""
    record = {
        "fingerprint": fingerprint,
        "error": None,
        "label": description.label,
        "class": description.cls if description.label else "Normal",
        "seed": description.seed,
    }
    try:
        if isinstance(outcome, Exception):
            raise outcome
        path = out / "videos" / f"{description.id}.mp4"
        write_video(path, outcome.frames_TxHxWx3, fps=outcome.fps, crf=outcome.crf)
        record |= {
            "num_frames": len(outcome.frames_TxHxWx3),
            "fps": outcome.fps,
            "abnormal_frames": outcome.abnormal_frames,
            "truth": dict(outcome.truth),
            "made": dict(outcome.facts),
        }
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {error}"
        print(f"{description.id}: {record['error']}", file=sys.stderr)
    write_json(_record_path(out, description.id), record, sort_keys=True)


def finish(
    out: pathlib.Path, descriptions: Sequence[Description], split: str | Mapping[str, str]
) -> None:
    """Writes videos.json once all videos have records; any rank may be the last.

    Raises:
      UserError: all videos failed.
    """
    records = {
        description.id: _read(_record_path(out, description.id)) for description in descriptions
    }
    if None in records.values():
        return
    errors = {name: record["error"] for name, record in records.items() if record["error"]}
    write_json(out / "errors.json", errors, sort_keys=True)
    if len(errors) == len(records):
        name, error = next(iter(errors.items()))
        raise UserError(
            f"{out}: expected videos, found that all of them failed; {name!r} with {error}"
        )
    videos, truth = {}, {}
    for name, record in records.items():
        if name in errors:
            continue
        videos[name] = {
            "file": f"videos/{name}.mp4",
            "split": split if isinstance(split, str) else split[name],
            **{key: record[key] for key in ("label", "class", "fps", "num_frames")},
        }
        if record["abnormal_frames"] is not None:
            videos[name]["abnormal_frames"] = record["abnormal_frames"]
        if record["truth"]:
            truth[name] = record["truth"]
    if truth:
        write_json(out / "world_truth.json", truth, sort_keys=True)
    write_json(out / "videos.json", {"videos": videos}, sort_keys=True)
    if not errors:  # The set is complete, so remove what is no longer needed or a kill left.
        shutil.rmtree(out / "prepared", ignore_errors=True)
        for partial in out.glob("*/.*.partial*"):
            partial.unlink(missing_ok=True)
