"""Folders of commands: recognised before anything is written, locked, cleared of litter."""

import contextlib
import errno
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator, Sequence

from gvvad_jax.command import UserError
from gvvad_jax.store import files
from gvvad_jax.store.files import write_atomically

MARKER = ".gvvad"
# What file systems, desktops and refused runs of earlier versions leave in folders that are empty
# otherwise.
_NOTHING = (
    ".lock",
    ".DS_Store",
    "lost+found",
    ".Trash-0",
    ".directory",
    "desktop.ini",
    "Thumbs.db",
)
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EBADF)
# Younger files may be of a process that is about to lock them.
_LITTER_SECONDS = 2.0


def claim(
    folder: str | os.PathLike, kind: str, *, flag: str = "--out", signs: Sequence[str] = ()
) -> pathlib.Path:
    """Returns a folder that a command may write in, created if need be and marked as its own.

    Args:
      folder: the folder.
      kind: what the command makes, such as "store"; the marker file holds it.
      flag: the flag that names the folder, for the message.
      signs: names of files; a folder without a marker that has all of them is of an earlier
        version of the command.

    Raises:
      UserError: the folder holds anything else; nothing in it was touched.
    """
    folder = pathlib.Path(folder)
    require_own(folder, kind, flag=flag, signs=signs)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARKER).exists():
        # A finished folder may be mounted read-only; it is recognised by its signs.
        with contextlib.suppress(OSError) if signs else contextlib.nullcontext():
            write_atomically(folder / MARKER, f"{kind}\n".encode())
    return folder


def require_own(
    folder: str | os.PathLike, kind: str, *, flag: str = "--out", signs: Sequence[str] = ()
) -> None:
    """Raises UserError unless `claim` would take the folder; writes nothing."""
    folder = pathlib.Path(folder)
    try:
        names = sorted(set(os.listdir(folder)) - set(_NOTHING))
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UserError(
            f"{flag}={folder}: expected a folder, found a file; choose another"
        ) from error
    if MARKER in names:
        with open(folder / MARKER, "rb") as file:
            found = file.read(80).decode(errors="replace").strip()
        if found == kind:
            return
        problem = f"one of the kind {found!r}"
    else:
        own = [name for name in names if _is_litter(name)]
        if len(own) == len(names) or (signs and set(signs) <= set(names)):
            return
        others = [name for name in names if name not in own]
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        problem = f"other files ({', '.join(others[:3])}{more})"
    raise UserError(
        f"{flag}={folder}: expected an absent or empty folder, or one of the kind {kind!r}, found "
        f"{problem}, which this command would overwrite; give another {flag}"
    )


def require_own_file(path: str | os.PathLike, beginning: bytes, *, flag: str = "--out") -> None:
    """Raises UserError if a file is there that isn't of the kind that a command is to write.

    Args:
      path: the file to write.
      beginning: how every file of that kind begins; white space before it doesn't count.
      flag: the flag that names the file, for the message.
    """
    try:
        files.require_regular(path, "a file to replace")
        with open(path, "rb") as file:
            found = file.read(256).lstrip()
    except UserError:
        if not os.path.lexists(path):
            return
        raise
    if found and not found.startswith(beginning):
        raise UserError(
            f"{flag}={path}: expected an absent file or one that this command wrote, found another "
            f"kind of file, which it would overwrite; give another {flag}"
        )


def _is_litter(name: str) -> bool:
    return name.startswith(".") and ".partial" in name


def busy(place: str | os.PathLike, work: str, otherwise: str = "") -> str:
    """Returns the message that another process does this work there, for `locked`."""
    return f"{place}: expected no other process to {work}, found one; wait for its end{otherwise}"


@contextlib.contextmanager
def locked(path: str | os.PathLike, busy: str | None) -> Iterator[None]:
    """Holds a lock; it ends with its process.

    Args:
      path: the lock's file, created if need be, or a folder that is there. A link is refused,
        because opening it would create its target.
      busy: the message if another process holds the lock; None waits for it.

    Raises:
      UserError: another process holds the lock, or the path is a link.
    """
    try:
        how = os.O_DIRECTORY if os.path.isdir(path) else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(path, how | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: expected a lock, found a link; remove it") from error
        raise
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise UserError(busy) from error
        except OSError as error:
            # Some network file systems have no locks; the command works without.
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def clear_litter(folder: str | os.PathLike, pattern: str = ".*.partial*") -> None:
    """Removes temporary files of processes that were killed; those being written stay.

    Args:
      folder: the folder.
      pattern: which names, below the folder, are temporary files.
    """
    for path in pathlib.Path(folder).glob(pattern):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime < _LITTER_SECONDS:
                continue
            # Whoever writes a temporary file holds a lock on it (files.write_atomically).
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
