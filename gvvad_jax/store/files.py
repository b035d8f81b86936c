"""Writes files whole or not at all, and reads them with one-line errors. numpy only."""

import contextlib
import io
import json
import os
import pathlib
import secrets
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from gvvad_jax.command import UserError

T = TypeVar("T")

# A value read from JSON, or to be written as JSON.
Json = Any
# The errors that numpy and zipfile raise for damaged files.
_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all: temporary name, flush, rename.

    Raises:
      UserError: the folder doesn't exist.
      OSError: the file can't be written; the error names `path`, not the temporary name.
    """
    path = pathlib.Path(path)
    # Process ids wouldn't do: two containers that share a folder may have the same ones.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: expected a folder to write in, found no {path.parent}; create it"
        ) from error
    except OSError as error:
        # The error of a full disk names no file, and all others name the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # The folder may not be one.
            partial.unlink()


def load_array(
    path: str | os.PathLike, expected: str, mmap_mode: Literal["r"] | None = None
) -> np.ndarray:
    """Loads an array of numbers from an .npy file.

    Args:
      path: the file.
      expected: what the file should hold and how to get one, for the message.
      mmap_mode: "r" maps the file instead of reading it.

    Raises:
      UserError: the file is missing, or holds anything but one array of real numbers.
    """
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else "an .npz"
    except _DAMAGED as error:
        array, found = None, _damage(error)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise UserError(f"{path}: expected {expected}, found {found}")
    return array


def _damage(error: Exception) -> str:
    if "allow_pickle" in str(error):
        # numpy's own message, which advises to load the file unsafely, isn't shown.
        return "something else (another kind of file, or objects besides numbers)"
    return getattr(error, "strerror", None) or f"something else ({error})"


def load_arrays(path: str | os.PathLike, expected: str) -> dict[str, np.ndarray]:
    """Loads all arrays of an .npz file by name; raises UserError as `load_array` does."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                return dict(content)
        found = "one array"
    except _DAMAGED as error:
        found = _damage(error)
    raise UserError(f"{path}: expected {expected}, found {found}")


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to an .npz file by name; np.savez doesn't allow every name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def write_json(path: str | os.PathLike, content: Json, *, sort_keys: bool = False) -> None:
    """Writes indented JSON, whole or not at all; `sort_keys` makes the order of names unique."""
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=sort_keys) + "\n").encode())


def read_lines(
    path: str | os.PathLike, parse: Callable[[Json], T], expected: str, remedy: str
) -> list[T]:
    """Reads a file of JSON lines.

    Args:
      path: the file.
      parse: turns a line's JSON into a value; raises KeyError, TypeError or ValueError for JSON
        of another kind.
      expected: what a line should be, for messages.
      remedy: what to do about a wrong line, for messages.

    Returns:
      The value of each line.

    Raises:
      UserError: the file is missing, or a line is wrong.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or f"no UTF-8 ({error})"
        raise UserError(f"{path}: expected lines of {expected}, found {found}; {remedy}") from error
    parsed = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            parsed.append(parse(json.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: line {number}: expected {expected}, found {line[:60]!r} ({error}); "
                f"{remedy}"
            ) from error
    return parsed


def read_json(path: str | os.PathLike) -> Json:
    """Reads a JSON file; raises UserError if it is missing, not JSON, or repeats a name."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_pairs_hook=_require_unique)
    except OSError as error:
        raise UserError(f"{path}: expected a JSON file, found none ({error.strerror})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found something else ({error})") from error


def _require_unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    content: dict[str, Json] = {}
    for name, value in pairs:
        if name in content:
            raise UserError(
                f"expected each name once in an object, found {shorten(name)} twice; rename or "
                "remove one"
            )
        content[name] = value
    return content


def shorten(text: str) -> str:
    """Quotes a text for a message, at most its first 60 characters if it is long."""
    return repr(text) if len(text) <= 80 else f"{text[:60]!r}... of {len(text)} characters"
