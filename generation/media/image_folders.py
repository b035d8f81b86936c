"""Folders of images, which are videos without a frame rate: their frames in order."""

import pathlib
import re

import av

from generation.media.containers import UnreadableError, opened

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


def frame_order(name: str) -> tuple[str, str]:
    """Returns the key that sorts names of frames: frame2 comes before frame10."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(255), name), name


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns a folder's images in order; raises UnreadableError if there are none."""
    try:
        paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
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
    return paths


def decode_image(path: pathlib.Path) -> av.VideoFrame | None:
    """Decodes an image; returns None if the file is not a complete picture."""
    try:
        with opened(path) as (container, stream):
            return next(container.decode(stream), None)
    except (UnreadableError, av.FFmpegError):
        return None
