"""A run's folder: which run it is of, what that was begun with, and one process at a time in it."""

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

# A resumed run may log at another pace, and go on for longer where no schedule depends on its
# length; all else must be as it was.
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
    """The run's folder, made where it isn't there.

    Raises:
      UserError: it was begun with other flags, or is an import's.
    """
    if not config.workdir:
        raise UserError("--workdir: expected a folder for the run, found none")
    workdir = pathlib.Path(config.workdir)
    path = workdir / "config.flags"
    ours = _flags(to_flagfile(config))
    may_change = set(MAY_CHANGE) | (set() if config.depends_on_steps else {"steps"})
    if config.early_stop:
        may_change.remove("validate_every")
    if path.exists():
        theirs = _flags(path.read_text(encoding="utf-8"))
        changed = [
            f"{key}={theirs.get(key)} there, {ours.get(key)} now"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key) and key.lstrip("-") not in may_change
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
    """A flagfile's values by flag; it may have been edited."""
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("#", "//"))]
    return {key: value for key, _, value in (line.partition("=") for line in kept)}


def require_data(workdir: pathlib.Path, config: TrainConfig, made_of: Mapping[str, Any]) -> None:
    """Raises UserError where what is at the run's paths isn't what the run was begun with.

    Args:
      workdir: the run's folder.
      config: has the paths.
      made_of: hashes of what is there now, see train.py.
    """
    path = workdir / "begun.json"
    # A run of an earlier version has no such note: `claim` writes it.
    if not (workdir / "config.flags").exists() or not path.exists():
        return
    ours, theirs = _by_name(config, made_of), _by_name(config, read_json(path))
    changed = [name for name, digest in ours.items() if digest != theirs.get(name)]
    if changed:
        raise UserError(
            f"{workdir}: expected the data that the run here was begun with, found other content "
            f"in {', '.join(changed)}; give another --workdir, or put the data back"
        )


def _by_name(config: TrainConfig, made_of: Mapping[str, Any]) -> dict[str, Any]:
    paths = [*config.store.split(","), config.synthetic_store]
    digests = zip(paths, made_of["stores"], strict=False)  # Without a synthetic store one less.
    return {f"store {path}": digest for path, digest in digests} | {
        f"decisions {config.synthetic_keep}": made_of["decisions"],
        "the prompt bank": made_of["bank"],
        "the splits": made_of["splits"],
        "the training labels": made_of["labels"],
    }


def claim(workdir: pathlib.Path, config: TrainConfig, made_of: Mapping[str, Any]) -> None:
    """Notes whose folder it is. Not before a run can start: a refused one leaves it free."""
    note = json.dumps(made_of, indent=1) + "\n"
    write_atomically(workdir / "begun.json", note.encode())
    # Last: the folder is begun from here on.
    write_atomically(workdir / "config.flags", to_flagfile(config).encode())


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """One run at a time; the lock dies with its process.

    Raises:
      UserError: another process trains here.
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
            # Some network disks have no locks.
            if error.errno not in _NO_LOCKS:
                raise
        yield
