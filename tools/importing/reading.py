"""Arrays of features in .npy, .npz and .h5 files: their headers, and their rows piece by piece."""

import contextlib
import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.files import load_array, require_regular
from tools.importing.lists import FEATURE_SUFFIXES

_HDF5 = (".h5", ".hdf5")
_EXPECTED = "an array of features"
# What a member of an .npz may expand to: this much, or this many times its compressed size.
_EXPANDED_BYTES, _EXPANSION = 1 << 30, 50


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a file.

    Attributes:
      path: the file.
      member: its name inside an .npz or .h5 file; empty in an .npy file.
      shape: its shape.
      dtype: its type.
      alone: whether the file has no other array, so that the file's name is the video's.
    """

    path: pathlib.Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype
    alone: bool = True

    @property
    def stem(self) -> str:
        """The name of what the array describes: its file's, or its own in a file of several."""
        name = self.path.name if self.alone else self.member.rpartition("/")[2]
        suffix = pathlib.PurePath(name).suffix.lower()
        return name[: -len(suffix)] if suffix in FEATURE_SUFFIXES else name

    def __str__(self) -> str:
        return str(self.path) if self.alone else f"{self.path}::{self.member}"


def arrays_of(path: pathlib.Path, member: str = "") -> list[Array]:
    """Reads the headers of a file's arrays.

    Args:
      path: an .npy, .npz or .h5 file.
      member: the array to take, of a file with several; all by default.

    Raises:
      UserError: the file is missing, empty, truncated or of another kind, or has no such array.
    """
    require_regular(path, _EXPECTED)
    if not os.path.getsize(path):
        raise UserError(f"{path}: expected {_EXPECTED}, found an empty file")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = load_array(path, _EXPECTED, "r")
        return [Array(path, "", array.shape, array.dtype)]
    headers = _npz_headers(path) if suffix == ".npz" else _hdf5_headers(path)
    if member:
        headers = [h for h in headers if h[0].rpartition("/")[2] == member]
    if not headers:
        raise UserError(f"{path}: expected {member or 'at least one array'}, found none")
    for name, _, dtype in headers:
        if dtype.kind not in "biuf":
            raise UserError(f"{path}: expected numbers, found {name} of {dtype}")
    alone = len(headers) == 1
    return [Array(path, name, tuple(shape), dtype, alone) for name, shape, dtype in headers]


def _npz_headers(path: pathlib.Path) -> list[tuple[str, Sequence[int], np.dtype]]:
    headers = []
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                if info.file_size > max(_EXPANDED_BYTES, _EXPANSION * info.compress_size):
                    raise ValueError(f"{info.filename} of {info.file_size >> 20} MiB")
                with archive.open(info) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                headers.append((info.filename.removesuffix(".npy"), shape, dtype))
    except Exception as error:  # Anything can be in a damaged archive.
        raise UserError(f"{path}: expected arrays of numbers, found {_reason(error)}") from error
    return headers


def _hdf5_headers(path: pathlib.Path) -> list[tuple[str, Sequence[int], np.dtype]]:
    import h5py

    headers: list[tuple[str, Sequence[int], np.dtype]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{name}, whose values are in other files")
            headers.append((name, item.shape or (), item.dtype))

    try:
        # Links, which may lead to other files, aren't followed.
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except Exception as error:
        raise UserError(f"{path}: expected arrays of numbers, found {_reason(error)}") from error
    return headers


def _reason(error: Exception) -> str:
    return f"something else ({str(error).partition(chr(10))[0][:120] or type(error).__name__})"


@contextlib.contextmanager
def opened(array: Array) -> Iterator[Any]:
    """Opens an array whose rows are read when they are sliced; an .npz member is read whole.

    Raises:
      UserError: the file isn't what it was when its header was read.
    """
    suffix = array.path.suffix.lower()
    if suffix == ".npy":
        yield load_array(array.path, _EXPECTED, "r")
    elif suffix == ".npz":
        yield _npz_member(array)
    else:
        import h5py

        try:
            with h5py.File(array.path, "r") as file:
                yield file[array.member]
        except (OSError, KeyError, RuntimeError) as error:
            raise _damaged(array, error) from error


def _npz_member(array: Array) -> np.ndarray:
    try:
        with np.load(array.path, allow_pickle=False) as archive:
            return archive[array.member]
    except Exception as error:  # Anything can be in a damaged archive.
        raise _damaged(array, error) from error


def _damaged(array: Array, error: Exception) -> UserError:
    return UserError(f"{array}: expected {_EXPECTED}, found {_reason(error)}")
