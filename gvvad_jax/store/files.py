"""Writes files whole or not at all, and reads them with one-line errors. numpy only."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import secrets
import stat
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from gvvad_jax.command import UserError

T = TypeVar("T")

# A value read from JSON, or to be written as JSON.
Json = Any
# The errors that numpy and zipfile raise for damaged files.
_DAMAGED = (
    *(OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError),
    *(tokenize.TokenError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError),
    *(RecursionError, RuntimeError),
)
# Larger texts are no list, flagfile or JSON of anyone.
_MAX_TEXT_BYTES = 512 << 20
# What an .npz may expand to: this much, or this many times its own size.
_MAX_EXPANDED_BYTES, _MAX_EXPANSION = 1 << 30, 50


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
            # Tells folders.clear_litter that this file is being written.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
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


def require_regular(path: str | os.PathLike, expected: str, max_bytes: int | None = None) -> None:
    """Raises UserError unless the path is a file: a pipe or device would be waited for.

    Args:
      path: the file; a link to one is followed.
      expected: what the file should hold, for the message.
      max_bytes: its largest size.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: expected {expected}, found none ({found})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise UserError(f"{path}: expected {expected}, found {kind}; give a file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise UserError(
            f"{path}: expected {expected}, found {status.st_size >> 20} MiB, more than the "
            f"{max_bytes >> 20} that are read; give the right file"
        )


def read_text(path: str | os.PathLike, expected: str = "a text file") -> str:
    """Reads a text; a byte order mark is dropped, and every line ends with a line feed.

    Args:
      path: the file.
      expected: what the file should hold, for the message.

    Raises:
      UserError: the file is missing, no regular file, too large or not UTF-8.
    """
    require_regular(path, expected, _MAX_TEXT_BYTES)
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or f"no UTF-8 ({error})"
        raise UserError(f"{path}: expected {expected}, found {found}") from error


# Python 3.11 may raise SystemError where several threads parse headers at once.
_HEADERS = threading.Lock()


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
    require_regular(path, expected)
    try:
        with _HEADERS if mmap_mode else contextlib.nullcontext():
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
    # The first line: those of tokenizers and of deep recursion are followed by more.
    reason = str(error).partition("\n")[0][:200]
    return getattr(error, "strerror", None) or f"something else ({reason or type(error).__name__})"


def load_arrays(path: str | os.PathLike, expected: str) -> dict[str, np.ndarray]:
    """Loads all arrays of an .npz file by name; raises UserError as `load_array` does."""
    require_regular(path, expected)
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                _require_no_bomb(path)
                both = [name for name in content.files if f"{name}.npy" in content.files]
                if both:  # The name of the second is the first one's file.
                    raise ValueError(f"arrays called {both[0]!r} and {both[0]!r}.npy")
                return dict(content)
        found = "one array"
    except _DAMAGED as error:
        found = _damage(error)
    raise UserError(f"{path}: expected {expected}, found {found}")


def _require_no_bomb(path: str | os.PathLike) -> None:
    with zipfile.ZipFile(path) as archive:
        expanded = sum(member.file_size for member in archive.infolist())
    if expanded > max(_MAX_EXPANDED_BYTES, _MAX_EXPANSION * os.stat(path).st_size):
        raise ValueError(f"its arrays would take {expanded >> 20} MiB once expanded")


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
    path: str | os.PathLike, parse: Callable[[Json], T] | type[T], expected: str, remedy: str
) -> list[T]:
    """Reads a file of JSON lines.

    Args:
      path: the file.
      parse: turns a line's JSON into a value, raising KeyError, TypeError or ValueError for JSON
        of another kind; or a type that msgspec converts to, such as a msgspec.Struct.
      expected: what a line should be, for messages.
      remedy: what to do about a wrong line, for messages.

    Returns:
      The value of each line.

    Raises:
      UserError: the file is missing, or a line is wrong.
    """
    try:
        lines = read_text(path, f"lines of {expected}").split("\n")
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error
    parse = as_type(parse) if isinstance(parse, type) else parse
    parsed = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            parsed.append(parse(_parse_json(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: line {number}: expected {expected}, found {line[:60]!r} "
                f"({_reason(error)}); {remedy}"
            ) from error
    return parsed


def read_json(path: str | os.PathLike, *, finite: bool = False) -> Json:
    """Reads a JSON file.

    Args:
      path: the file.
      finite: whether NaN and Infinity, which Python writes but JSON hasn't, are refused.

    Raises:
      UserError: the file is missing, not JSON, or repeats a name in an object.
    """
    text = read_text(path, "a JSON file")
    try:
        return _parse_json(text, finite=finite)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except ValueError as error:
        raise UserError(
            f"{path}: expected JSON, found something else ({_reason(error)})"
        ) from error


def read_json_as(path: str | os.PathLike, schema: type[T], expected: str, remedy: str) -> T:
    """Reads a JSON file into a type.

    Args:
      path: the file.
      schema: a msgspec.Struct, or any type that msgspec converts to; nothing is coerced.
      expected: what the file should hold, for messages.
      remedy: what to do about a wrong file, for messages.

    Raises:
      UserError: the file is missing, not JSON, or its values are of other types; the message says
        where.
    """
    content = read_json(path, finite=True)
    try:
        return as_type(schema)(content)
    except ValueError as error:
        raise UserError(
            f"{path}: expected {expected}, found another value ({_reason(error)}); {remedy}"
        ) from error


def as_type(schema: type[T]) -> Callable[[Json], T]:
    """Returns what turns parsed JSON into a type without coercion, or raises ValueError."""

    def convert(content: Json) -> T:
        try:
            return msgspec.convert(content, schema)
        except (OverflowError, RecursionError) as error:
            raise ValueError(_reason(error)) from error

    return convert


def _parse_json(text: str, *, finite: bool = True) -> Json:
    constant = _refuse_constant if finite else float
    try:
        return json.loads(text, object_pairs_hook=_require_unique, parse_constant=constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"expected finite numbers, found {name}")


def _reason(error: Exception) -> str:
    """Returns an error in one line, with places as names: `$.crops.count` is crops.count."""
    return str(error).replace("`$.", "`").replace("at `$`", "in it").partition("\n")[0]


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
