"""Digests of contents and files: sha256 in hexadecimal digits."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import sqlite3
import time
from collections.abc import Iterable

from gvvad_jax.store.files import Json

# Smaller files are read again: looking them up would take as long.
_LARGE_BYTES = 4 << 20
_TICK_SECONDS = 2.0


def of_bytes(content: bytes) -> str:
    """Returns the digest of bytes."""
    return hashlib.sha256(content).hexdigest()


def of_text(content: str) -> str:
    """Returns the digest of a text's UTF-8 bytes."""
    return of_bytes(content.encode())


def of_json(content: Json, *, sort_keys: bool = True) -> str:
    """Returns the digest of a value's JSON on one line."""
    return of_text(json.dumps(content, sort_keys=sort_keys))


def of_file(path: str | os.PathLike) -> str:
    """Returns the digest of a file's content; raises OSError if the file can't be read.

    A large file is read once: the digest is kept in the user's cache by the file's path, inode,
    size and times. Without a home directory nothing is kept.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size < _LARGE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        key = f"{os.path.realpath(path)}\n{_state(status)}"
        known = _cached(key)
        if known:
            return known
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        # A file that was changed just now may change again within one tick of its clock.
        settled = time.time() - max(status.st_mtime, status.st_ctime) > _TICK_SECONDS
        if settled and _state(os.fstat(file.fileno())) == _state(status):
            _cache(key, digest)
        return digest


def of_files(root: str | os.PathLike, paths: Iterable[str | os.PathLike]) -> str:
    """Returns the digest of files' contents and of their paths within `root`, in this order."""
    files = [[pathlib.Path(path).relative_to(root).as_posix(), of_file(path)] for path in paths]
    return of_json(files, sort_keys=False)


def _state(status: os.stat_result) -> str:
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_dev} {status.st_ino} {status.st_size} {times}"


def _connected() -> sqlite3.Connection:
    """Opens the cache; raises OSError, RuntimeError or sqlite3.Error if there can be none."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(base) / "gvvad"
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "digests.sqlite", timeout=10)
    connection.execute("CREATE TABLE IF NOT EXISTS digests (key TEXT PRIMARY KEY, digest TEXT)")
    return connection


def _cached(key: str) -> str | None:
    with contextlib.suppress(OSError, RuntimeError, sqlite3.Error):
        with contextlib.closing(_connected()) as connection:
            row = connection.execute("SELECT digest FROM digests WHERE key = ?", (key,)).fetchone()
        if row and re.fullmatch("[0-9a-f]{64}", str(row[0])):
            return str(row[0])
    return None


def _cache(key: str, digest: str) -> None:
    with (
        contextlib.suppress(OSError, RuntimeError, sqlite3.Error),
        contextlib.closing(_connected()) as connection,
        connection,
    ):
        connection.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (key, digest))
