"""A folder of clips: a record beside each video, by which to resume, and the list of all.

Ranks share the folder and see of each other what is in it, nothing else. errors.json exists from
the moment all clips have their records until somebody begins to try the failed ones again.
"""

import json
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

_ALWAYS = {"fingerprint", "error", "label", "class"}
_OF_A_CLIP = {"num_frames", "fps", "abnormal_frames", "truth"}


def _path(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / "clips" / f"{name}.json"


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """A clip's record; None where there is none, UserError where it isn't one of ours."""
    try:
        record = read_json(path)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise UserError(f"{error}; remove it, and the clip is made again") from error
    missing = _ALWAYS - set(record) if isinstance(record, dict) else _ALWAYS
    if not missing and record["error"] is None:
        missing = _OF_A_CLIP - set(record)
    if missing:
        raise UserError(
            f"{path}: expected a clip's record, found one without {', '.join(sorted(missing))}; "
            "remove it, and the clip is made again"
        )
    return record


def _fingerprint(description: Description, backend: Backend) -> str:
    content = json.dumps([description.to_json(), dict(backend.settings)], sort_keys=True)
    return digests.of_text(content)


def is_done(out: pathlib.Path, description: Description, backend: Backend) -> bool:
    """Whether the clip is there; one that failed isn't, with whatever settings.

    Raises:
      UserError: it was made with other settings, or its record is damaged.
    """
    record = _read(_path(out, description.id))
    if record is None or record["error"] is not None:
        return False
    if record["fingerprint"] != _fingerprint(description, backend):
        raise UserError(
            f"{out}: expected {description.id!r} to be made with these settings, found another "
            "making; give another --out or remove the folder"
        )
    return (out / "videos" / f"{description.id}.mp4").exists()


def begin(out: pathlib.Path, descriptions: Sequence[Description]) -> None:
    """Forgets what will be tried again, and the list of all, which is none any more.

    The first of the ranks to begin forgets the errors of all: the one that ends first would take
    those of a rank yet to begin for its outcome. Later ones forget their own, from before a kill.
    """
    listed = _listed(out)
    mine = {description.id for description in ranks.share(descriptions)}
    for description in descriptions:
        path = _path(out, description.id)
        record = _read(path)
        if record is None:
            continue
        if record["error"] is None:
            again = not (out / "videos" / f"{description.id}.mp4").exists()
        else:
            again = description.id in mine or description.id in listed
        if again:
            path.unlink(missing_ok=True)
    (out / "videos.json").unlink(missing_ok=True)
    if listed and not any((out / "videos").glob("*.mp4")):  # Other weights may do better.
        (out / "model.json").unlink(missing_ok=True)
    (out / "errors.json").unlink(missing_ok=True)  # Last: after a kill all of this is done again.


def _listed(out: pathlib.Path) -> dict[str, str]:
    """errors.json; {} where there is none, or where another rank is taking it away."""
    try:
        return read_json(out / "errors.json")
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise


def make(out: pathlib.Path, batch: Sequence[Description], backend: Backend) -> None:
    """Makes a batch of clips; whatever goes wrong becomes the record of its clip."""
    if not batch:
        return
    try:
        outcomes = backend(batch)
    except Exception as error:  # whatever a model throws, the other clips go on
        outcomes = [error] * len(batch)
    for description, outcome in zip(batch, outcomes, strict=True):
        _write(out, description, outcome, _fingerprint(description, backend))


def _write(
    out: pathlib.Path,
    description: Description,
    outcome: GeneratedVideo | Exception,
    fingerprint: str,
) -> None:
    """One clip and its record; the record comes last, so that a clip without one is made again."""
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
    write_json(_path(out, description.id), record, sort_keys=True)


def finish(
    out: pathlib.Path, descriptions: Sequence[Description], split: str | Mapping[str, str]
) -> None:
    """Writes videos.json once all clips have their records; any rank may be the last.

    Raises:
      UserError: all clips failed.
    """
    records = {description.id: _read(_path(out, description.id)) for description in descriptions}
    if None in records.values():
        return
    errors = {name: record["error"] for name, record in records.items() if record["error"]}
    write_json(out / "errors.json", errors, sort_keys=True)
    if len(errors) == len(records):
        name, error = next(iter(errors.items()))
        raise UserError(f"{out}: expected clips, all of them failed; {name!r} with {error}")
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
    if not errors:  # Nobody is making anything any more: what kills left behind can go.
        shutil.rmtree(out / "prepared", ignore_errors=True)
        for partial in out.glob("*/.*.partial*"):
            partial.unlink(missing_ok=True)
