"""A file's size, first and last bytes: tells files apart without reading all of a large one.

What is done with them differs, and stays: stores and folders of clips keep the digests.
"""

import hashlib
import os


def read(path: str | os.PathLike, num_bytes: int) -> tuple[int, bytes, bytes]:
    """Its size, and num_bytes each of its start and its end, which overlap in a small file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(num_bytes)
        file.seek(max(size - num_bytes, 0))
        return size, first, file.read(num_bytes)


def digest(path: str | os.PathLike, num_bytes: int) -> str:
    """sha256 of all this, no byte twice: of the whole file where it is small."""
    size, first, last = read(path, num_bytes)
    overlap = max(2 * num_bytes - size, 0)
    return hashlib.sha256(f"{size}\n".encode() + first + last[overlap:]).hexdigest()
