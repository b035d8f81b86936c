"""Ground truth in arrays: .npy, .npz, pickles, .mat and folders of masks."""

import contextlib
import io
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import files
from tools.importing import unpickling
from tools.importing.truth_entries import TruthEntry, find_intervals, merge, require_labels

_IMAGES = (".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
_EXPECTED = "frame labels of test videos"
# What names of mask files and folders add to the video's name.
_ADDED = ("_gt", "_label", "_mask")


def read_npy(path: str) -> np.ndarray | list[TruthEntry]:
    """Reads an .npy: all videos' labels one after the other, or an object array of each video's.

    An .npz has an array under each video's name.
    """
    with open_regular(path) as file:
        start = file.read(6)
    if start[:2] == b"PK":
        return read_container(files.load_arrays(path, _EXPECTED), path, inclusive=False)
    if start == b"\x93NUMPY" and (content := _objects(path)) is not None:
        return read_container(content, path, inclusive=False)
    array = files.load_array(path, _EXPECTED)
    return require_labels(array, path)


def open_regular(path: str) -> Any:
    """Opens a file for reading bytes; raises UserError where there is none."""
    files.require_regular(path, _EXPECTED)
    return open(path, "rb")


def _objects(path: str) -> Any:
    """The content of an .npy of objects, which is a pickle behind a header; else None."""
    with open_regular(path) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            _, _, dtype = read(file)
        except Exception:  # Anything can be in a damaged header; load_array says what is wrong.
            return None
        return unpickling.loads(file.read(), path, _EXPECTED) if dtype.hasobject else None


def read_pickle(path: str, *, inclusive: bool) -> np.ndarray | list[TruthEntry]:
    """Reads a pickle of arrays: by video, a list in the videos' order, or one for all videos."""
    content = unpickling.load(path, _EXPECTED)
    if isinstance(content, np.ndarray) and content.ndim == 1:
        return require_labels(content, path)
    return read_container(content, path, inclusive=inclusive)


def read_container(content: Any, path: str, *, inclusive: bool) -> list[TruthEntry]:
    """Reads labels or intervals of each video from a dictionary by name, or a list in order."""
    if isinstance(content, np.ndarray) and content.ndim == 0:
        content = content.tolist()
    if isinstance(content, Mapping):
        # A dictionary around the dictionary, such as {"gt": {...}}.
        if len(content) == 1 and isinstance(only := next(iter(content.values())), Mapping):
            content = only
        named = [(str(name), value) for name, value in content.items()]
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        named = [("", value) for value in content]
    else:
        raise UserError(
            f"{path}: expected {_EXPECTED}, by name or in the order of the list, found "
            f"{type(content).__name__}; give the ground truth"
        )
    if not named:
        raise UserError(f"{path}: expected {_EXPECTED}, found none; give the ground truth")
    return [
        _entry(name, value, f"{path}: video {name or index!r}", inclusive)
        for index, (name, value) in enumerate(named)
    ]


def _entry(name: str, value: Any, where: str, inclusive: bool) -> TruthEntry:
    """An entry of frame labels, or of [start, end] pairs."""
    try:
        array = np.asarray(value)
    except ValueError:  # Lists of different lengths.
        array = np.array(None)
    if array.dtype.kind in "biuf" and array.ndim == 2 and 2 in array.shape and len(array):
        return TruthEntry(name=name, intervals=_pairs(array, where, inclusive))
    if array.size == 0 and isinstance(value, list | tuple | np.ndarray) and array.dtype != object:
        return TruthEntry(name=name, intervals=())
    labels_F = require_labels(array, where)
    return TruthEntry(name=name, intervals=find_intervals(labels_F), num_frames=len(labels_F))


def _pairs(array: np.ndarray, where: str, inclusive: bool) -> tuple[tuple[int, int], ...]:
    """[N, 2] or [2, N] starts and ends as [start, end) pairs counted from 0."""
    pairs_Nx2 = array if array.shape[1] == 2 else array.T
    # Two of two: read so that one ends before the other begins.
    if array.shape == (2, 2) and not array[0, 0] < array[0, 1] <= array[1, 0] < array[1, 1]:
        pairs_Nx2 = array.T
    numbers = np.isfinite(pairs_Nx2).all() and (pairs_Nx2 == np.floor(pairs_Nx2)).all()
    starts, ends = pairs_Nx2[:, 0] - inclusive, pairs_Nx2[:, 1]
    if not numbers or (starts < 0).any() or (starts >= ends).any() or (ends > 1 << 24).any():
        raise UserError(
            f"{where}: expected [start, end] pairs of frames, found {pairs_Nx2[:2].tolist()}; "
            "correct them, or give --intervals=half_open where they count from 0"
        )
    return merge([(int(s), int(e)) for s, e in zip(starts, ends, strict=True)])


def read_mat(path: str, *, inclusive: bool) -> np.ndarray | list[TruthEntry]:
    """Reads a .mat, or a folder of one a video.

    Known are `gt`, a cell for each test video with starts and ends [2, N] or frame labels, as
    for Ped2 and Avenue; and Avenue's own `volLabel`, a mask for each frame of one video.
    """
    if os.path.isdir(path):
        found = sorted(pathlib.Path(path).glob("*.mat"), key=lambda p: (len(p.name), p.name))
        if not found:
            raise UserError(f"{path}: expected .mat files, found none; give the right folder")
        return [_mask_entry(each) for each in found]
    content = _load_mat(path)
    if "volLabel" in content:
        return [_mask_entry(pathlib.Path(path))]
    if len(content) != 1 and "gt" not in content:
        raise UserError(
            f"{path}: expected a variable gt, found {', '.join(sorted(content)[:5]) or 'none'}; "
            "rename the one that holds the ground truth"
        )
    value = content.get("gt", next(iter(content.values())))
    if value.dtype == object:
        return read_container(list(value.ravel()), path, inclusive=inclusive)
    return require_labels(value.ravel() if 1 in value.shape else value, path)


def _load_mat(path: str | os.PathLike) -> dict[str, np.ndarray]:
    import scipy.io

    files.require_regular(path, _EXPECTED, 2 << 30)
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            content = scipy.io.loadmat(io.BytesIO(file.read()))
    except NotImplementedError as error:
        raise UserError(
            f"{path}: expected a .mat up to version 7, found version 7.3; save it again with "
            "save(..., '-v7')"
        ) from error
    # scipy raises whatever its parser stumbles upon.
    except Exception as error:
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise UserError(f"{path}: expected a .mat file, found something else ({reason})") from error
    return {
        name: value
        for name, value in content.items()
        if not name.startswith("__") and isinstance(value, np.ndarray)
    }


def _mask_entry(path: pathlib.Path) -> TruthEntry:
    masks = _load_mat(path).get("volLabel")
    if masks is None or masks.dtype != object or not masks.size:
        raise UserError(f"{path}: expected a variable volLabel of masks, found none")
    with contextlib.suppress(ValueError, TypeError):
        labels_F = np.array([bool(np.asarray(mask).any()) for mask in masks.ravel()])
        return _labelled(path, labels_F)
    raise UserError(f"{path}: expected a mask for each frame, found others; give another file")


def read_masks(path: str) -> list[TruthEntry]:
    """Reads a folder that has, for each video, an .npy of masks or a folder of mask images."""
    entries = []
    for each in sorted(pathlib.Path(path).iterdir()):
        if each.suffix == ".npy":
            array = files.load_array(each, "labels of frames or of pixels", mmap_mode="r")
            entries.append(_labelled(each, require_labels(array, str(each))))
        elif each.is_dir() and (images := _images(each)):
            entries.append(_labelled(each, np.array([_is_marked(image) for image in images])))
    if not entries:
        raise UserError(
            f"{path}: expected masks, an .npy or a folder of images for each video, found none; "
            "name the folder that holds them"
        )
    return entries


def _labelled(path: pathlib.Path, labels_F: np.ndarray) -> TruthEntry:
    name = path.stem if path.suffix in (".npy", ".mat") else path.name
    for added in _ADDED:
        name = name.removesuffix(added)
    return TruthEntry(name=name, intervals=find_intervals(labels_F), num_frames=len(labels_F))


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)


def _is_marked(path: pathlib.Path) -> bool:
    import cv2

    content = np.fromfile(path, np.uint8)
    mask = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if content.size else None
    if mask is None:
        raise UserError(f"{path}: expected a mask image, found something else; copy it again")
    # JPEG's black isn't quite black.
    return bool((mask > 127).any())
