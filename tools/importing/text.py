"""Text features beside visual ones: found by name, made as long as these."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.importing import sources
from tools.importing.checks import Fault, FaultyFiles
from tools.importing.lists import video_id
from tools.importing.plans import ImportPlan, say
from tools.importing.reading import Array

# Text may have been extracted with another rounding of the video's length.
_SLACK = 2


def add(plan: ImportPlan, spec: str, root: str) -> None:
    """Finds each video's text, and drops videos without one that fits.

    Args:
      plan: the videos, with their layouts; gets the texts.
      spec, root: the flags --text and --root; nothing is done without text.

    Raises:
      FaultyFiles: no file of text can be read.
    """
    if not spec:
        return
    found, faults = sources.find(spec, root, "text")
    plan.faults += faults
    texts: dict[str, list[Array]] = collections.defaultdict(list)
    for each in found:
        texts[video_id(each.stem)].append(each.array)
    widths = collections.Counter(array.shape[-1] for each in found if (array := each.array).shape)
    if not widths:
        raise FaultyFiles(plan.faults)
    width = widths.most_common(1)[0][0]
    faults, off = [], 0
    for video in plan.members:
        arrays = texts.get(video.key, [])
        snippets = plan.layouts[video.source].snippets(video.files[0].array.shape)
        if len(arrays) != 1:
            what = f"expected one text array of that name, found {len(arrays)}"
            faults.append(Fault("text", video.name, what, video.key))
            continue
        length = _length(arrays[0].shape)
        if not length or not _fits(length, snippets) or arrays[0].shape[-1] != width:
            what = f"expected [{snippets}, {width}], found {list(arrays[0].shape)}"
            faults.append(Fault("text", str(arrays[0]), what, video.key))
            continue
        off += length != snippets
        plan.texts[video.key] = arrays[0]
    plan.drop(faults)
    if off:
        say(
            f"text of {off:,} videos has 1 or 2 rows more or fewer than their features: cut at the "
            "end, or its last rows repeated"
        )
    if unused := texts.keys() - {video.key for video in plan.members}:
        say(f"text of {len(unused):,} names without features isn't imported: {min(unused)} ...")


def _length(shape: Sequence[int]) -> int | None:
    """Returns the rows of a text array [T, E], [T, 1, E] or [1, T, E]; None for another shape."""
    if len(shape) == 3 and 1 in shape[:2]:
        return shape[0] * shape[1]
    return shape[0] if len(shape) == 2 else None


def _fits(length: int, snippets: int) -> bool:
    """Tells whether text may be of a video although it has fewer or more rows."""
    return -_SLACK <= snippets - length <= min(_SLACK, length)


def rows_of(array: Any, snippets: int) -> np.ndarray:
    """Returns text [snippets, E]: longer text is cut, the last rows of shorter one are repeated."""
    text_TxE = np.asarray(array[:]).reshape(-1, array.shape[-1])[:snippets]
    missing = snippets - len(text_TxE)
    return np.concatenate([text_TxE, text_TxE[-missing:]]) if missing > 0 else text_TxE
