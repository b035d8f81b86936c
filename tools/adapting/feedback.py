"""Feedback on alarms: a CSV of intervals with labels, and the snippets that they label."""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_text, shorten

COLUMNS = ("video", "start", "end", "label")
# Wrong rows that a message names; the rest are counted.
_MOST_NAMED = 20
# Differences of times up to this many seconds are rounding.
_SLACK = 1e-6


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the feedback.

    Attributes:
      line: its number in the file.
      video: the video, as the file names it.
      start, end: seconds.
      label: 1 where the interval is abnormal, 0 where an alarm was false.
    """

    line: int
    video: str
    start: float
    end: float
    label: int


def read(path: str) -> list[Row]:
    """Reads a feedback's CSV; more columns than COLUMNS are left alone, as events.csv has them.

    Raises:
      UserError: no such file, or wrong rows, all of which the message names.
    """
    text = read_text(path, "feedback on alarms, a CSV")
    try:
        return _rows(path, csv.reader(text.splitlines()))
    except csv.Error as error:
        raise UserError(
            f"{path}: expected feedback on alarms, a CSV, found another file ({error}); correct it"
        ) from error


def _rows(path: str, lines: Any) -> list[Row]:
    """Returns the rows of a CSV's reader; see read."""
    header = [name.strip() for name in next(lines, [])]
    missing = [name for name in COLUMNS if header.count(name) != 1]
    if missing:
        raise UserError(
            f"{path}: line 1: expected the columns {','.join(COLUMNS)}, each once, found "
            f"{shorten(','.join(header))}; add {', '.join(missing)}"
        )
    rows, faults = [], []
    for values in lines:
        if not any(value.strip() for value in values):
            continue
        try:
            rows.append(_row(lines.line_num, dict(zip(header, values, strict=False))))
        except ValueError as error:
            faults.append((lines.line_num, str(error)))
    refuse(path, faults)
    if not rows:
        raise UserError(f"{path}: expected rows of feedback, found none; add a row an alarm")
    return rows


def _row(line: int, values: Mapping[str, str]) -> Row:
    texts = {name: (values.get(name) or "").strip() for name in COLUMNS}
    if not texts["video"]:
        raise ValueError("video: expected a name, found none")
    times = {}
    for name in ("start", "end"):
        try:
            times[name] = float(texts[name])
        except ValueError:
            times[name] = math.nan
        if not 0 <= times[name] < math.inf:
            raise ValueError(f"{name}: expected seconds from 0, found {shorten(texts[name])}")
    if times["start"] >= times["end"]:
        raise ValueError(f"end: expected above start {texts['start']}, found {texts['end']}")
    if texts["label"] not in ("0", "1"):
        raise ValueError(f"label: expected 0 or 1, found {shorten(texts['label'])}")
    return Row(line, texts["video"], times["start"], times["end"], int(texts["label"]))


def refuse(path: str, faults: Sequence[tuple[int, str]]) -> None:
    """Raises UserError where there are faults, (line, what is wrong); the message names all."""
    if not faults:
        return
    named = [f"line {line}: {fault}" for line, fault in sorted(faults)[:_MOST_NAMED]]
    more = f"; and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
    raise UserError(f"{path}: {'; '.join(named)}{more}; correct the rows")


def labels(
    path: str, rows: Sequence[Row], times: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Labels the snippets whose middle lies in an interval, or the nearest one if there is none.

    Args:
      path: the CSV, for messages.
      rows: its rows.
      times: start and end of each snippet in seconds [T, 2], by the names of videos.

    Returns:
      1, 0, or -1 for snippets without feedback [T], by video.

    Raises:
      UserError: rows beyond their video's end, or that contradict another.
    """
    found = {row.video: np.full(len(times[row.video]), -1) for row in rows}
    by, faults = {row.video: np.zeros(len(times[row.video]), int) for row in rows}, []
    for row in rows:
        times_Tx2, labels_T = times[row.video], found[row.video]
        length = float(times_Tx2[-1, 1])
        if row.start >= length or row.end > length + 1:
            faults.append((row.line, f"end: expected within the {length:.1f} s of {row.video}, "
                           f"found {row.start:g} to {row.end:g}"))  # fmt: skip
            continue
        middle_T = times_Tx2.mean(axis=1)
        inside_T = (middle_T >= row.start - _SLACK) & (middle_T < row.end - _SLACK)
        if not inside_T.any():
            inside_T[np.argmin(np.abs(middle_T - (row.start + row.end) / 2))] = True
        contrary_T = inside_T & (labels_T == 1 - row.label)
        if contrary_T.any():
            other = by[row.video][np.argmax(contrary_T)]
            faults.append((row.line, f"label: expected that of line {other}, which overlaps, found "
                           f"{row.label}"))  # fmt: skip
            continue
        labels_T[inside_T], by[row.video][inside_T] = row.label, row.line
    refuse(path, faults)
    return found
