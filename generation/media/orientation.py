"""How a stored picture is turned and mirrored to be upright, as players show it.

Containers, codecs and the EXIF data of images say it with a display matrix.
"""

import fractions
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type

# Side data that FFmpeg knows but PyAV does not; PyAV lists none at all where there are such.
_UNKNOWN_TYPES = range(max(kind.value for kind in Type) + 1, 32)


class Orientation(NamedTuple):
    """What makes a stored picture upright: exchange its axes, then mirror along them.

    Attributes:
      transposed: whether rows and columns are exchanged.
      mirrored: whether the columns are reversed afterwards.
      flipped: whether the rows are reversed afterwards.
    """

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) of the upright picture, or back from upright to stored."""
        return (height, width) if self.transposed else (width, height)

    def upright(self, image: np.ndarray) -> np.ndarray:
        """Returns a picture [H, W, ...] upright, contiguous."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        if self.mirrored:
            image = image[:, ::-1]
        if self.flipped:
            image = image[::-1]
        return np.ascontiguousarray(image)


def orientation(frame: av.VideoFrame) -> Orientation:
    """Returns what makes a decoded frame upright, to the nearest quarter turn."""
    try:
        side_data = frame.side_data
    except ValueError:
        side_data = _without_unknown_types(frame).side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    # A pixel at (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def _without_unknown_types(frame: av.VideoFrame) -> av.VideoFrame:
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format.name,
            time_base=frame.time_base or fractions.Fraction(1, 25),
        ),
        *(graph.add("sidedata", f"mode=delete:type={kind}") for kind in _UNKNOWN_TYPES),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    graph.push(frame)
    return graph.pull()
