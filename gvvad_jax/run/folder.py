"""The folder of a run: its flags, digests of its data, and a lock for one process at a time."""

import contextlib
import errno
import fcntl
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from gvvad_jax.command import UserError, to_flagfile
from gvvad_jax.config import TrainConfig
from gvvad_jax.store.files import read_json, write_atomically

# Flags that may change when a run is resumed; so may `steps` unless a schedule depends on it.
MAY_CHANGE = (
    "log_every",
    "validate_every",
    "checkpoint_every",
    "workdir",
    "compilation_cache",
    "parallel",
    "processes",
    "device_gigabytes",
)
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)


def require_flags(config: TrainConfig) -> pathlib.Path:
    """Returns the run's folder, which is created if need be.

    Raises:
      UserError: the folder has a run with other flags, or an imported checkpoint.
    """
    if not config.workdir:
        raise UserError("--workdir: expected a folder for the run, found none")
    workdir = pathlib.Path(config.workdir)
    path = workdir / "config.flags"
    flags = _flags(to_flagfile(config))
    may_change = set(MAY_CHANGE) | (set() if config.depends_on_steps else {"steps"})
    if config.early_stop:
        may_change.remove("validate_every")
    if path.exists():
        existing = _flags(path.read_text(encoding="utf-8"))
        changed = [
            f"{key}={existing.get(key)} there, {flags.get(key)} now"
            for key in sorted(flags.keys() | existing.keys())
            if flags.get(key) != existing.get(key) and key.lstrip("-") not in may_change
        ]
        if changed:
            raise UserError(
                f"{workdir}: expected the same flags as the run begun here, found "
                f"{'; '.join(changed)}; give another --workdir or remove it"
            )
    elif (workdir / "model.json").exists():
        raise UserError(
            f"{workdir}: expected an empty folder or a run begun here, found an imported "
            "checkpoint; training would replace it: give another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    return workdir


def _flags(text: str) -> dict[str, str]:
    """The values of a flagfile by flag, without comments that a user may have added."""
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("#", "//"))]
    return {key: value for key, _, value in (line.partition("=") for line in kept)}


def require_data(workdir: pathlib.Path, config: TrainConfig, made_of: Mapping[str, Any]) -> None:
    """Raises UserError if the data has changed since the run was begun.

    Args:
      workdir: the run's folder.
      config: the run's settings, with the paths.
      made_of: digests of the data as it is now; see training._made_of.
    """
    path = workdir / "begun.json"
    # Runs of earlier versions have no begun.json; `claim` writes it.
    if not (workdir / "config.flags").exists() or not path.exists():
        return
    digests, existing = _by_name(config, made_of), _by_name(config, read_json(path))
    changed = [name for name, digest in digests.items() if digest != existing.get(name)]
    if changed:
        raise UserError(
            f"{workdir}: expected the data that the run here was begun with, found other content "
            f"in {', '.join(changed)}; give another --workdir, or put the data back"
        )


def _by_name(config: TrainConfig, made_of: Mapping[str, Any]) -> dict[str, Any]:
    paths = [*config.store.split(","), config.synthetic_store]
    digests = zip(paths, made_of["stores"], strict=False)  # The synthetic store is optional.
    return {f"store {path}": digest for path, digest in digests} | {
        f"decisions {config.synthetic_keep}": made_of["decisions"],
        "the prompt bank": made_of["bank"],
        "the splits": made_of["splits"],
        "the training labels": made_of["labels"],
    }


def claim(workdir: pathlib.Path, config: TrainConfig, made_of: Mapping[str, Any]) -> None:
    """Writes which run the folder is of; call it when the run can start.

    A run that is refused before leaves the folder free for a corrected command.
    """
    note = json.dumps(made_of, indent=1) + "\n"
    write_atomically(workdir / "begun.json", note.encode())
    # Written last, because `require_flags` takes it for the sign of a run.
    write_atomically(workdir / "config.flags", to_flagfile(config).encode())


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Locks the folder for one run; the lock ends with its process.

    Raises:
      UserError: another process trains in this folder.
    """
    with open(workdir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{workdir}: expected no other process to train here, found one that does; wait "
                "for it or stop it, or give another --workdir"
            ) from error
        except OSError as error:
            # Some network file systems have no locks; training works without.
            if error.errno not in _NO_LOCKS:
                raise
        yield
