"""H.264 video files, written reproducibly.

The same frames give the same bytes: x264 runs with one thread, because its threaded rate control
is not deterministic, and without its macroblock tree, which reads uninitialised memory, so that
short videos would differ from run to run even in decoded pixels.
"""

import fractions
import os
import pathlib
import secrets
from collections.abc import Iterable

import av
import numpy as np

from gvvad_jax.command import UserError


def write_video(
    path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: float, crf: int = 23
) -> None:
    """Writes an H.264 .mp4 file, completely or not at all.

    Args:
      path: the file; it appears under this name only when it is complete.
      frames: RGB uint8 [H, W, 3], all of the same even height and width.
      fps: frames per second.
      crf: x264's quality, 0 (lossless) to 51.

    Raises:
      UserError: there are no frames, or their height or width is odd, which yuv420p cannot hold.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial.mp4")
    rate = fractions.Fraction(fps).limit_denominator(1001)
    try:
        with av.open(str(partial), "w") as container:
            stream = None
            for image_HxWx3 in frames:
                if stream is None:
                    height, width = image_HxWx3.shape[:2]
                    if height % 2 or width % 2:
                        raise UserError(
                            f"{path}: expected even height and width, found {height}x{width}"
                        )
                    stream = container.add_stream("libx264", rate=rate)
                    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                    stream.gop_size = 48
                    stream.options = {
                        "crf": str(crf),
                        "preset": "veryfast",
                        "threads": "1",
                        "x264-params": "mbtree=0",
                    }
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HxWx3), "rgb24")
                container.mux(stream.encode(frame))
            if stream is None:
                raise UserError(f"{path}: expected at least one frame to write, found none")
            container.mux(stream.encode())
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
