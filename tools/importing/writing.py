"""Videos of other people's files into stores; the same call resumes."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations, digests
from gvvad_jax.store.features import described_video
from gvvad_jax.store.files import read_json_as, write_atomically
from gvvad_jax.store.format import Manifest, Row
from gvvad_jax.store.writer import StoreWriter
from tools.importing import text
from tools.importing.checks import Content, state
from tools.importing.layouts import Layout
from tools.importing.reading import Array, opened
from tools.importing.videos import Video

# Beside a store: what was read of which file, so that resuming reads only what is left.
RECORD = "import.json"


class _Record(msgspec.Struct):
    contents: dict[str, Content]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A video that is to be written.

    Attributes:
      video: the video.
      layout: its arrays' layout.
      text: its text array; None in a store without text.
      annotation, row: as the store has them; the row without digest.
    """

    video: Video
    layout: Layout
    text: Array | None
    annotation: annotations.VideoAnnotation
    row: Row

    @property
    def arrays(self) -> list[Array]:
        """Its visual arrays and its text."""
        return [file.array for file in self.video.files] + ([self.text] if self.text else [])


def plan(
    video: Video,
    layout: Layout,
    text: Array | None,
    manifest: Manifest,
    contents: Mapping[str, Content],
    *,
    fps: float,
    nominal: bool,
    crop: int | None,
) -> Planned:
    """Describes a video as its store will.

    Args:
      video: the video, of which all is known.
      layout: its arrays' layout.
      text: its text array, or None.
      manifest: the store's settings.
      contents: what was read of each array.
      fps: frames per second if nothing says them.
      nominal: whether its frames are counted from its rows, whatever lists say: segments of a
        training video have no place in time.
      crop: the crop that is imported; None for all.

    Raises:
      UserError: what is known doesn't fit, such as rows and frames.
    """
    snippets = layout.snippets(video.files[0].array.shape)
    intervals = video.abnormal_frames
    num_frames = video.num_frames or _reached(snippets, intervals or (), manifest)
    annotation, row = described_video(
        video.id,
        snippets,
        manifest,
        label=video.label if video.label is not None else -1,
        split=video.split or "",
        fps=video.fps or fps,
        num_frames=None if nominal else num_frames,
        # Of training videos nothing but the label is used.
        abnormal_frames=None if nominal else intervals if video.label else [],
        class_name=video.cls,
        group=video.group,
        source="synthetic" if video.synthetic else "real",
    )
    arrays = [file.array for file in video.files] + ([text] if text else [])
    read = [contents[str(array)].digest for array in arrays if str(array) in contents]
    made_of = digests.of_json([read, layout.name, crop, manifest.dtype])
    return Planned(video, layout, text, annotation, dataclasses.replace(row, made_of=made_of))


def _reached(snippets: int, intervals: Sequence[Sequence[int]], manifest: Manifest) -> int | None:
    """Returns the frames of a video of unknown length whose last event passes its last row.

    Extractors drop the last partial snippet, annotators don't.
    """
    frames = manifest.snippet["frames"]
    end = max((end for _, end in intervals), default=0)
    passes = end > snippets * frames and alignment.fits(snippets, end, frames, frames)
    return end if passes else None


def write(
    path: pathlib.Path,
    manifest: Manifest,
    planned: Sequence[Planned],
    contents: Mapping[str, Content],
    crop: int | None,
) -> int:
    """Writes a store, or resumes it.

    Args:
      path: its folder.
      manifest: its settings.
      planned: its videos.
      contents: what was read of each array, by `checks.state`.
      crop: the crop that is imported; None for all.

    Returns:
      How many videos were written now; the others were there.

    Raises:
      UserError: the folder holds something else, or a file changed since it was checked.
    """
    listed = annotations.Annotations(
        {each.video.id: each.annotation for each in planned}, str(path / "videos.json")
    )
    made_of = {each.video.id: each.row.made_of or "" for each in planned}
    writer = StoreWriter(path, manifest, listed, made_of)
    write_atomically(path / RECORD, msgspec.json.encode(_Record(dict(contents))))
    waiting = [each for each in planned if not writer.has(each.video.id)]
    add = functools.partial(_add, writer, crop, contents)
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(add, waiting):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    writer.pack()
    return len(waiting)


def _add(
    writer: StoreWriter, crop: int | None, contents: Mapping[str, Content], planned: Planned
) -> None:
    for array in planned.arrays:
        if state(array) not in contents:
            raise UserError(
                f"{array}: expected what was checked before, found a file that changed meanwhile; "
                "run the same command again"
            )
    with contextlib.ExitStack() as stack:
        arrays = [stack.enter_context(opened(file.array)) for file in planned.video.files]
        visual_TxNxD = visual_rows(arrays, planned.layout, crop)
        text_TxE = None
        if planned.text:
            text_TxE = text.rows_of(stack.enter_context(opened(planned.text)), len(visual_TxNxD))
        writer.add(planned.row, visual_TxNxD, text_TxE)


def visual_rows(arrays: Sequence[Any], layout: Layout, crop: int | None) -> np.ndarray:
    """Returns a video's features [T, N, D] of its arrays; mapped files stay mapped if they can.

    Args:
      arrays: one array, or one for each crop.
      layout: their layout.
      crop: the crop to take; None for all.
    """
    if layout.name == "per_crop":
        length, width = arrays[0].shape
        visual_TxNxD = np.empty((length, len(arrays), width), arrays[0].dtype)
        for number, array in enumerate(arrays):
            visual_TxNxD[:, number] = array[:]
        return visual_TxNxD
    array = arrays[0] if isinstance(arrays[0], np.ndarray) else arrays[0][:]
    if layout.name == "TxD":
        return array[:, None]
    visual_TxNxD = array if layout.name == "TxNxD" else array.transpose(1, 0, 2)
    return visual_TxNxD if crop is None else visual_TxNxD[:, crop : crop + 1]


def known_contents(path: pathlib.Path) -> dict[str, Content]:
    """Returns what an import into this folder read before it was stopped; nothing if it can't."""
    if not (path / RECORD).is_file():
        return {}
    try:
        return read_json_as(path / RECORD, _Record, "a record", "remove it").contents
    except UserError:
        return {}
