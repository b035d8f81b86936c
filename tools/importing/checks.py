"""What is wrong with files of features: all of it is listed before anything is written."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from tools.importing.reading import Array, opened

_CHUNK_BYTES = 16 << 20
_MOST_FLOAT16 = 65504.0


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
    """What is wrong with a file.

    Attributes:
      kind: one or two words, by which faults are counted.
      where: the file, the line of a list or the video.
      what: expected and found.
      video: the key of the video that it concerns; empty if the file is of no video.
    """

    kind: str
    where: str
    what: str
    video: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


class FaultyFiles(UserError):
    """Files that can't be imported.

    Attributes:
      faults: what is wrong, file by file.
    """

    def __init__(self, faults: Sequence[Fault]):
        self.faults = sorted(set(faults))
        counts = collections.Counter(fault.kind for fault in self.faults)
        listed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
        first = self.faults[0]
        super().__init__(
            f"expected features without faults, found {len(self.faults):,} ({listed}), first "
            f"{first.where}: {first.what}; correct them, or leave their videos out with "
            "--skip_faulty"
        )


class Content(msgspec.Struct, frozen=True):
    """What the values of an array are like.

    Attributes:
      digest: sha256 of its shape, type and values.
      rows: its number of rows of the last axis.
      norm: mean norm of the rows.
      low, high: smallest and largest norm.
      top: largest absolute value.
      finite: whether there is neither NaN nor infinity.
    """

    digest: str
    rows: int
    norm: float
    low: float
    high: float
    top: float
    finite: bool


def content_of(array: Array) -> Content:
    """Reads an array once, in pieces.

    Raises:
      UserError: the file can't be read.
    """
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str}".encode())
    count, total, low, high, top, finite = 0, 0.0, np.inf, 0.0, 0.0, True
    with opened(array) as rows:
        row_bytes = max(1, int(np.prod(array.shape[1:])) * array.dtype.itemsize)
        step = max(1, _CHUNK_BYTES // row_bytes)
        for start in range(0, array.shape[0], step):
            try:
                piece = np.ascontiguousarray(rows[start : start + step])
            except OSError as error:
                raise UserError(
                    f"{array}: expected features, found them damaged ({error})"
                ) from error
            digest.update(piece.reshape(-1).view(np.uint8).data)
            values = piece.reshape(-1, array.shape[-1])
            if values.dtype.itemsize < 4 or values.dtype.kind != "f":
                values = values.astype(np.float32)
            squares = np.einsum("td,td->t", values, values)
            if not np.isfinite(squares).all():
                if not np.isfinite(values).all():
                    finite = False
                    continue
                # Squares of large numbers are no float32.
                squares = np.square(values.astype(np.float64)).sum(axis=1)
            norms = np.sqrt(squares)
            count += len(norms)
            total += float(norms.sum())
            low, high = min(low, float(norms.min())), max(high, float(norms.max()))
            if high > _MOST_FLOAT16:  # Only then can a value be too large for float16.
                top = max(top, float(np.abs(values).max()))
    mean = total / count if count else 0.0
    low = low if count else 0.0
    return Content(digest.hexdigest(), count, mean, low, high, top, finite)


def contents_of(
    arrays: Sequence[Array], known: Mapping[str, Content]
) -> tuple[dict[str, Content], list[Fault]]:
    """Reads arrays, several at a time.

    Args:
      arrays: the arrays.
      known: contents by `state` of arrays that were read before.

    Returns:
      (content by the array's text, files that turned out unreadable).
    """
    contents: dict[str, Content] = {}
    faults = []

    def read(array: Array) -> Content | Fault:
        try:
            if before := known.get(state(array)):
                return before
            return content_of(array)
        except (UserError, OSError) as error:
            return Fault("unreadable", str(array), str(error).removeprefix(f"{array}: "))

    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for array, content in zip(arrays, pool.map(read, arrays), strict=True):
            if isinstance(content, Fault):
                faults.append(content)
            else:
                contents[str(array)] = content
                if not content.finite:
                    faults.append(Fault("not finite", str(array), "NaN or infinity among values"))
    return contents, faults


def state(array: Array) -> str:
    """Returns what changes whenever the array's file does."""
    status = os.stat(array.path)
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    key = f"{os.path.abspath(array.path)}\n{array.member}\n{status.st_size} {times}"
    # A digest, because names may hold bytes that no JSON has.
    return digests.of_bytes(os.fsencode(key))
