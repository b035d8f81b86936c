"""Digests of contents and files: sha256 in hexadecimal digits."""

import hashlib
import json
import os

from gvvad_jax.store.files import Json


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
    """Returns the digest of a file's content; raises OSError if the file can't be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_ends(path: str | os.PathLike, num_bytes: int) -> tuple[int, bytes, bytes]:
    """Reads a file's size, its first and its last `num_bytes` bytes.

    In a small file the two overlap. They distinguish large files without reading all of them.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(num_bytes)
        file.seek(max(size - num_bytes, 0))
        return size, first, file.read(num_bytes)


def of_ends(path: str | os.PathLike, num_bytes: int) -> str:
    """Returns the digest of a file's size, start and end; of the whole file if it is small."""
    size, first, last = read_ends(path, num_bytes)
    overlap = max(2 * num_bytes - size, 0)
    return of_bytes(f"{size}\n".encode() + first + last[overlap:])
