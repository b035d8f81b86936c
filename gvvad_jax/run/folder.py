"""The folder of a run: its flags, digests of its data, and a lock for one process at a time."""

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from gvvad_jax.command import UserError, to_flagfile
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import folders
from gvvad_jax.store.files import read_json, read_json_as, read_text, shorten, write_atomically

# Version 1 named data by its paths, and knew videos and weights by size and ends.
FORMAT_VERSION = 2
# Flags that name data: begun.json knows it by content, wherever it lies and however it is spelled.
_DATA = ("store", "synthetic_store", "synthetic_keep", "annotations")
# Flags that may change when a run is resumed; so may `steps` unless a schedule depends on it.
MAY_CHANGE = (
    "log_every",
    "loggers",
    "validate_every",
    "checkpoint_every",
    "workdir",
    "compilation_cache",
    "parallel",
    "processes",
    "device_gigabytes",
    "verify_rows",
    "alarms_per_hour",
    "normal_store",
)


class ChosenLambda(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `--lambda_mode=auto` chose when a run was begun, so that a resumed one goes on with it.

    Attributes:
      value: lambda.
      by_set: lambda of each synthetic store, in their order.
      why: what the choice rests on.
    """

    value: float
    by_set: list[float]
    why: str


class Begun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of begun.json: digests of a run's data by its role, none by its path.

    Attributes:
      format_version: 2.
      stores: of the real videos' stores, in order.
      synthetic_store, decisions, annotations, bank: None for what the run doesn't use.
      splits, labels: which videos are used how, and their labels.
      chosen: lambda, where the run chose it.
    """

    format_version: Literal[2]
    stores: list[str]
    synthetic_store: str | None
    decisions: str | None
    annotations: str | None
    bank: str | None
    splits: str
    labels: str
    chosen: ChosenLambda | None = None


def require_flags(config: TrainConfig) -> pathlib.Path:
    """Returns the run's folder, which is created if need be.

    Raises:
      UserError: the folder has a run with other flags, or an imported checkpoint.
    """
    if not config.workdir:
        raise UserError("--workdir: expected a folder for the run, found none; give one")
    workdir = pathlib.Path(config.workdir)
    path = workdir / "config.flags"
    flags = _flags(to_flagfile(config))
    may_change = {*MAY_CHANGE, *_DATA} | (set() if config.depends_on_steps else {"steps"})
    if config.early_stop:
        may_change.remove("validate_every")
    if path.exists():
        read_begun(workdir)
        existing = read_flags(workdir)
        changed = [
            f"--{name}={str(existing.get(name))[:200]} there, {flags.get(name) or 'not set'} now"
            for name in sorted(flags.keys() | existing.keys())
            if flags.get(name) != existing.get(name) and name not in may_change
        ]
        if changed:
            raise UserError(
                f"{workdir}: expected the same flags as the run begun here, found "
                f"{'; '.join(changed[:5])}{f' and {len(changed) - 5} more' * (len(changed) > 5)}; "
                "give another --workdir or remove it"
            )
    elif (workdir / "model.json").exists():
        raise UserError(
            f"{workdir}: expected an empty folder or a run begun here, found an imported "
            "checkpoint; training would replace it: give another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    return workdir


def read_flags(workdir: pathlib.Path) -> dict[str, str]:
    """Reads the flags that the run in a folder was begun with, by name.

    Raises:
      UserError: there is no config.flags, or it is damaged.
    """
    path = workdir / "config.flags"
    existing = _flags(read_text(path, "the flags of a run"))
    strange = [name for name in existing if not re.fullmatch("[a-z0-9_]{1,60}", name)]
    if strange:
        raise UserError(
            f"{path}: expected the flags of a run, found {shorten(strange[0])}; the file is "
            "damaged: give another --workdir, or remove the folder"
        )
    return existing


def _flags(text: str) -> dict[str, str]:
    """The values of a flagfile by name, without comments that a user may have added."""
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("#", "//"))]
    pairs = (line.partition("=") for line in kept)
    return {key.removeprefix("--"): value for key, _, value in pairs}


def read_begun(workdir: pathlib.Path) -> Begun:
    """Reads what the run in a folder was begun with.

    Raises:
      UserError: the run is of version 1, or the file is damaged.
    """
    path = workdir / "begun.json"
    content = read_json(path) if path.exists() else None
    if content is None or (isinstance(content, dict) and "format_version" not in content):
        raise UserError(
            f"{workdir}: expected a run begun by this version, found one of version 1, which "
            "scores but can't be resumed: it knew its data by paths, sizes and ends; give another "
            "--workdir"
        )
    remedy = "give another --workdir: what the run here was begun with isn't known any more"
    return read_json_as(path, Begun, "what a run was begun with", remedy)


def require_data(workdir: pathlib.Path, config: TrainConfig, made_of: Mapping[str, Any]) -> None:
    """Raises UserError if the data has changed since the run was begun.

    Args:
      workdir: the run's folder.
      config: the run's settings, with the paths, for messages.
      made_of: digests of the data as it is now; see inputs.made_of.
    """
    if not (workdir / "config.flags").exists():
        return
    existing = msgspec.structs.asdict(read_begun(workdir))
    now = {"format_version": FORMAT_VERSION} | dict(made_of)
    paths = config.store.split(",")
    changed = [
        f"store {number} ({path})"
        for number, (path, digest) in enumerate(zip(paths, now["stores"], strict=True), start=1)
        if digest not in existing["stores"][number - 1 : number]
    ]
    if len(existing["stores"]) > len(paths):
        changed.append(f"--store, which named {len(existing['stores'])}")
    names = {
        "synthetic_store": f"the synthetic store ({config.synthetic_store or 'none now'})",
        "decisions": f"the decisions ({config.synthetic_keep or 'none now'})",
        "annotations": f"the annotations ({config.annotations or 'none now'})",
        "bank": "the prompt bank",
        "splits": "the splits",
        "labels": "the training labels",
    }
    changed += [name for role, name in names.items() if now[role] != existing[role]]
    if changed:
        raise UserError(
            f"{workdir}: expected the data that the run here was begun with, found other content "
            f"in {', '.join(changed)}; give another --workdir, or put the data back"
        )


def chosen_lambda(workdir: pathlib.Path) -> ChosenLambda | None:
    """Returns the lambda that the run begun in a folder chose; None where there is none."""
    return read_begun(workdir).chosen if (workdir / "config.flags").exists() else None


def claim(
    workdir: pathlib.Path,
    config: TrainConfig,
    made_of: Mapping[str, Any],
    chosen: ChosenLambda | None = None,
) -> None:
    """Writes which run the folder is of; call it when the run can start.

    A run that is refused before leaves the folder free for a corrected command. A result of other
    flags goes, such as of fewer steps: should this run be killed, it would pass for its own.
    """
    path, flags = workdir / "config.flags", to_flagfile(config).encode()
    if not path.exists() or path.read_bytes() != flags:
        (workdir / "result.json").unlink(missing_ok=True)
    begun = {"format_version": FORMAT_VERSION} | dict(made_of)
    if chosen:
        begun["chosen"] = msgspec.to_builtins(chosen)
    note = json.dumps(begun, indent=1) + "\n"
    write_atomically(workdir / "begun.json", note.encode())
    # Written last, because `require_flags` takes it for the sign of a run.
    write_atomically(path, flags)


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Locks the folder for one run, clears what killed ones left; the lock ends with its process.

    Raises:
      UserError: another process trains in this folder.
    """
    busy = folders.busy(workdir, "train there", ", stop it, or give another --workdir")
    with folders.locked(workdir / ".lock", busy):
        folders.clear_litter(workdir)
        for unfinished in workdir.glob("checkpoints/*/*.orbax-checkpoint-tmp"):
            shutil.rmtree(unfinished, ignore_errors=True)
        yield
