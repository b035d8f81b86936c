"""Files written whole or not at all, and read with one line about what is wrong. numpy only."""

import contextlib
import io
import json
import os
import pathlib
import secrets
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gvvad_jax.command import UserError

# A value read from JSON, or to be written as JSON.
Json = Any
# The errors that numpy and zipfile raise for damaged files.
_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all: temporary name, flush, rename.

    Raises:
      UserError: its folder isn't there.
      OSError: it can't be written; names `path`, not the temporary name.
    """
    path = pathlib.Path(path)
    # Not by process ids: those of two pods that share a folder may be the same.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: expected a folder to write in, found no {path.parent}; make it"
        ) from error
    except OSError as error:
        # A full disk names no file, and all others the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # Of a folder that is none.
            partial.unlink()


def load_array(path: str | os.PathLike, expected: str, mmap_mode: Any = None) -> np.ndarray:
    """An array of numbers from an .npy file.

    Args:
      path: the file.
      expected: what it should hold and how to get one, for the message.
      mmap_mode: "r" maps the file.

    Raises:
      UserError: no such file, or anything but one array of real numbers.
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
        # numpy's own message advises to load the file unsafely: not passed on.
        return "something else (another kind of file, or objects besides numbers)"
    return getattr(error, "strerror", None) or f"something else ({error})"


def load_arrays(path: str | os.PathLike, expected: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name; raises UserError as `load_array` does."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found:
                return dict(found)
        reason = "one array"
    except _DAMAGED as error:
        reason = _damage(error)
    raise UserError(f"{path}: expected {expected}, found {reason}")


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file of arrays by name, any name: np.savez takes none of its own arguments'."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def write_json(path: str | os.PathLike, content: Any, *, sort_keys: bool = False) -> None:
    """Writes indented JSON, whole or not at all; with `sort_keys` in an order of its own."""
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=sort_keys) + "\n").encode())


def read_lines(
    path: str | os.PathLike, parse: Callable[[Any], Any], expected: str, remedy: str
) -> list[Any]:
    """What `parse` makes of the JSON of each of a file's lines.

    Args:
      path: the file.
      parse: raises KeyError, TypeError or ValueError for what it can't take.
      expected: what a line is, for messages.
      remedy: what to do about a wrong one.

    Raises:
      UserError: no such file, or a line that is something else.
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


def read_json(path: str | os.PathLike) -> Any:
    """A JSON file's content; raises UserError when it is missing, no JSON, or ambiguous."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_pairs_hook=_object)
    except OSError as error:
        raise UserError(f"{path}: expected a JSON file, found none ({error.strerror})") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found something else ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise UserError(
                f"expected each name once in an object, found {shortened(name)} twice; rename or "
                "remove one"
            )
        content[name] = value
    return content


def shortened(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:60]!r}... of {len(text)} characters"
