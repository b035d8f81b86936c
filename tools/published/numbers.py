"""Published numbers of the benchmarks, and measures of a run beside them."""

import csv
import io
import pathlib
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from gvvad_jax.command import UserError
from gvvad_jax.config import CHECKPOINTS
from gvvad_jax.store.files import read_json, read_text

PATH = pathlib.Path(__file__).with_name("numbers.csv")
_READ_IN = {"paper": "the paper", "list": "others' tables"}
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)] | None


class Published(msgspec.Struct, frozen=True):
    """One published result, in shares of 1; what isn't published, or wasn't found, is None or "".

    Attributes:
      data_set: the benchmark.
      method: the detector.
      features: what it was given.
      auc: area under the ROC curve of frames.
      ap: average precision of frames.
      far: false alarm rate at 0.5.
      chosen_on: the split that the checkpoint was chosen on; "" where that isn't known.
      source: the publication.
      read_in: "paper" if the number was read in it, "list" if in others' tables of results.
      reproduced: what this project got, and by which command; "" where it hasn't been run.
    """

    data_set: str
    method: str
    features: str
    auc: _Share
    ap: _Share
    far: _Share
    chosen_on: str
    source: str
    read_in: str
    reproduced: str


def read() -> list[Published]:
    """Reads the table of published numbers."""
    rows = csv.DictReader(io.StringIO(read_text(PATH)))
    numbers = ("auc", "ap", "far")
    return [
        msgspec.convert(
            {name: (float(cell) if cell else None) if name in numbers else cell
             for name, cell in row.items()},
            Published,
        )
        for row in rows
    ]  # fmt: skip


def data_set_named(name: str) -> str:
    """Returns the table's name of a benchmark, by any spelling; raises UserError for others."""
    known = list(dict.fromkeys(row.data_set for row in read()))
    for each in known:
        if _plain(name) in (_plain(each), _plain(each).removeprefix("ucsd")):
            return each
    raise UserError(
        f"--data_set={name}: expected one of {', '.join(known)}, found another; name one of these"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def measures_of(path: str) -> dict[str, dict[str, Any]]:
    """Reads measures from a run folder's result.json, or from what evaluate printed.

    Returns:
      The measures by what they are of: the checkpoints of a run, or "measured".

    Raises:
      UserError: the file is missing, or has no measures.
    """
    folder = pathlib.Path(path)
    file = folder / "result.json" if folder.is_dir() else folder
    content = read_json(file)
    if isinstance(content, dict) and "auc" in content:
        return {"measured": content}
    found = {
        name: content[name]
        for name in CHECKPOINTS
        if isinstance(content, dict) and isinstance(content.get(name), dict)
    }
    if not found:
        raise UserError(
            f"{file}: expected measures of test videos, found none; give a finished run, or what "
            "evaluate printed"
        )
    return found


def table(data_set: str, measured: Mapping[str, Mapping[str, Any]], name: str = "") -> str:
    """Returns Markdown: measured rows, then published ones; then each class's AUC.

    Args:
      data_set: the benchmark, as the table names it.
      measured: measures by what they are of; empty for the published ones alone.
      name: what was measured, e.g. the run folder.
    """
    head = ("detector", "features", "AUC", "AP", "FAR", "chosen on", "source")
    head = head if measured else (*head, "reproduced here")
    lines = [_row(*head), "|---" * len(head) + "|"]
    chosen = {"last": "nothing (the last)", "best_on_validation": "validation",
              "best_on_test": "test"}  # fmt: skip
    for kind, measures in measured.items():
        cells = [_number(measures.get(key)) for key in ("auc", "ap", "far")]
        lines.append(_row(f"**{name}**", "", *cells, chosen.get(kind, ""), "measured here"))
    for row in (row for row in read() if row.data_set == data_set):
        cells = [_number(value) for value in (row.auc, row.ap, row.far)]
        read_in = f" (read in {_READ_IN[row.read_in]})" if row.read_in else ""
        method = row.method or "none that was read here"
        last = () if measured else (row.reproduced or "not run",)
        lines.append(_row(method, row.features, *cells, row.chosen_on, row.source + read_in, *last))
    classes = {
        name: [measures.get("per_class", {}).get(name) for measures in measured.values()]
        for measures in measured.values()
        for name in measures.get("per_class") or {}
    }
    if classes:
        lines += ["", _row("class", *(f"AUC, {kind}" for kind in measured)),
                  "|---" * (1 + len(measured)) + "|"]  # fmt: skip
        lines += [_row(name, *map(_number, classes[name])) for name in sorted(classes)]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def tables() -> str:
    """Returns all published numbers as Markdown, one table a benchmark."""
    names = dict.fromkeys(row.data_set for row in read())
    return "\n\n".join(f"### {name}\n\n{table(name, {})}" for name in names)
