"""Folders of images, which are videos without a frame rate: their frames in order."""

import os
import pathlib
import re
from collections.abc import Iterable

import av

from generation.media.containers import UnreadableError, opened

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


def frame_order(name: str) -> tuple[str, str]:
    """Returns the key that sorts names of frames: frame2 comes before frame10."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(255), name), name


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns a folder's images in order, without hidden files.

    Raises:
      UnreadableError: there are none, or one is a link that leads out of the folder.
    """
    try:
        paths = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
    except OSError as error:
        raise UnreadableError(
            f"{folder}: expected a folder of frames, found one that can't be read "
            f"({error.strerror}); correct its permissions or remove it from the list"
        ) from error
    paths.sort(key=lambda path: frame_order(path.name))
    if not paths:
        raise UnreadableError(
            f"{folder}: expected a folder of frames ({', '.join(IMAGE_SUFFIXES)}), found none"
        )
    _refuse_links_out(folder, paths)
    return paths


def _refuse_links_out(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> None:
    """Refuses images that a data set takes from elsewhere on this machine."""
    inside: list[str] | None = None
    for path in filter(os.path.islink, paths):
        if inside is None:
            # The Hub's snapshots and git-annex link to the contents that they keep themselves.
            above = pathlib.Path(os.path.abspath(folder)).parents
            stores = [root / "blobs" for root in above if (root / "snapshots").is_dir()]
            stores += [root / ".git" / "annex" / "objects" for root in above]
            inside = [os.path.join(os.path.realpath(root), "") for root in (folder, *stores)]
        target = os.path.realpath(path)
        if not target.startswith(tuple(inside)):
            raise UnreadableError(
                f"{folder}: expected images in this folder, found {path.name}, a link to {target}; "
                "copy it, or link the whole folder instead"
            )


def decode_image(path: pathlib.Path) -> av.VideoFrame | None:
    """Decodes an image; returns None if the file is not a complete picture."""
    try:
        with opened(path) as (container, stream):
            return next(container.decode(stream), None)
    except Exception:  # PyAV raises many kinds for damaged files.
        return None
