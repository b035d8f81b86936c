"""Ground truth in text: the temporal annotations of UCF-Crime, TAD and XD-Violence."""

import re
from collections.abc import Sequence

from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_text, shorten
from tools.importing import lists
from tools.importing.truth_entries import TruthEntry, merge


def read_ucf(path: str, *, inclusive: bool) -> list[TruthEntry]:
    """Reads lines `Abuse028_x264.mp4  Abuse  165  240  -1  -1`.

    A number of frames may stand before the pairs, and -1 means none.
    """
    return [_ucf_entry(*line, path, inclusive) for line in _lines(path)]


def _ucf_entry(number: int, line: str, path: str, inclusive: bool) -> TruthEntry:
    name, *words = re.split(r"[\s,]+", line.strip().rstrip(","))
    cls = words.pop(0) if words and not re.fullmatch(r"-?\d+", words[0]) else None
    num_frames = words.pop(0) if len(words) % 2 else None
    intervals = _pairs(words, inclusive)
    if intervals is None or not words or (num_frames and not re.fullmatch(r"\d+", num_frames)):
        raise UserError(
            f"{path}, line {number}: expected a name, a class and pairs of frames, found "
            f"{shorten(line)}; correct it"
        )
    label, named = lists.label_of(cls) if cls else (int(bool(intervals)), None)
    return TruthEntry(
        name=name,
        intervals=merge(intervals),
        num_frames=int(num_frames) if num_frames and int(num_frames) > 0 else None,
        label=label,
        cls=named,
    )


def read_xd(path: str, *, inclusive: bool) -> list[TruthEntry]:
    """Reads lines `NAME_label_B2-0-0 122 200 300 410`, of abnormal videos only."""
    entries = []
    for number, line in _lines(path):
        match = re.fullmatch(r"(.*?\S)((?:\s+-?\d+)+)", line.strip())
        intervals = _pairs(match[2].split(), inclusive) if match else None
        if match is None or not intervals:
            raise UserError(
                f"{path}, line {number}: expected a name and pairs of frames, found "
                f"{shorten(line)}; correct it"
            )
        label, cls = lists.label_in_name(match[1]) or (1, None)
        if not label:
            raise UserError(
                f"{path}, line {number}: expected an abnormal video, found {shorten(match[1])}, "
                "whose name says normal; correct it"
            )
        entries.append(TruthEntry(name=match[1], intervals=merge(intervals), label=1, cls=cls))
    return entries


def looks_like_xd(path: str) -> bool:
    """Tells whether a text has names of XD-Violence."""
    return any("_label_" in line for _, line in _lines(path)[:5])


def _lines(path: str) -> list[tuple[int, str]]:
    text = read_text(path, "temporal annotations, one video a line")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: expected temporal annotations, found an empty file")
    return lines


def _pairs(words: Sequence[str], inclusive: bool) -> list[tuple[int, int]] | None:
    """Pairs of frames as [start, end) counted from 0; None if they are no pairs of frames."""
    if len(words) % 2 or not all(re.fullmatch(r"-?\d{1,8}", word) for word in words):
        return None
    pairs = [(int(a), int(b)) for a, b in zip(words[::2], words[1::2], strict=True)]
    present = [(a, b) for a, b in pairs if b >= 0]
    if any(a < 0 for a, _ in present):
        return None
    halved = [(max(a - inclusive, 0), b) for a, b in present]
    # [a, a) has no frame, and published code marks none.
    return [(a, b) for a, b in halved if a < b] if all(a <= b for a, b in halved) else None
