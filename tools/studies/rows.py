"""The rows of a study's table: one training run each, and the CSV that holds them."""

import csv
import dataclasses
import io
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.store.files import read_text, write_atomically
from tools.studies.grid import Cell

Record = TypeVar("Record")

if TYPE_CHECKING:
    from gvvad_jax.training import Result

# What result.json and metrics.jsonl say of a run, by column.
RESULTS = ("auc", "auc_abnormal", "ap", "far", "video_auc", "video_ap")
LOGGED = ("lambda_gradient", "grad_norm_real", "grad_norm_synthetic", "grad_cosine")
MEASURES = (
    *RESULTS, "lambda", *LOGGED, "generated_normal", "generated_abnormal", "steps", "cpu_seconds",
    "lambda_half", "lambda_gradient_positive",
)  # fmt: skip
KEYS = tuple(field.name for field in dataclasses.fields(Cell))
COLUMNS = (*KEYS, "flags", *MEASURES)
# Columns that every table has; one of an earlier version may lack later measures.
_REQUIRED = (*KEYS, "flags")
Measures = Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a study's table.

    Attributes:
      cell: what identifies it.
      flags: digest of what its numbers depend on besides; see grid.flags_digest.
      measures: numbers by column; None where one isn't defined or wasn't logged.
    """

    cell: Cell
    flags: str
    measures: Measures


def train(config: TrainConfig) -> dict[str, float | None]:
    """Trains a row's run and returns its measures."""
    from gvvad_jax import training

    began = time.process_time()
    result = training.fit(config)
    return _measures(config, result, time.process_time() - began)


def train_together(configs: Sequence[TrainConfig]) -> list[Measures | str]:
    """Trains rows of one program together; returns each one's measures, or why it has none."""
    from gvvad_jax import together

    began = time.process_time()
    outcomes = together.fit(configs)
    seconds = (time.process_time() - began) / len(configs)
    return [
        str(outcome) if isinstance(outcome, Interrupted) else _measures(config, outcome, seconds)
        for config, outcome in zip(configs, outcomes, strict=True)
    ]


def _measures(config: TrainConfig, result: "Result", seconds: float) -> dict[str, float | None]:
    from gvvad_jax import splits

    last: Mapping[str, Any] = result.last or {}
    opened, _ = splits.open_splits(config)
    labels = [m.video.label for m in opened.train if m.row.source == "synthetic"]
    return {
        **{name: last.get(name) for name in RESULTS},
        **logged(pathlib.Path(config.workdir) / "metrics.jsonl", bool(labels)),
        "generated_normal": labels.count(0),
        "generated_abnormal": labels.count(1),
        "steps": result.steps,
        "cpu_seconds": seconds,
    }


def logged(path: pathlib.Path, with_generated: bool) -> dict[str, float | None]:
    """Returns what a run's log says of lambda and of gradients; None where it says nothing.

    Lambda is the last one, and the one at half of the logged steps; gradients are means, and the
    share of logged steps at which lambda's is positive, so that lambda falls.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    values: dict[str, float | None] = dict.fromkeys(
        ("lambda", "lambda_half", "lambda_gradient_positive", *LOGGED)
    )
    if not with_generated:
        return values
    for name in ("lambda", *LOGGED):
        steps = [line[name] for line in lines if line.get(name) is not None]
        if not steps:
            continue
        values[name] = steps[-1] if name == "lambda" else sum(steps) / len(steps)
        if name == "lambda":
            values["lambda_half"] = steps[(len(steps) - 1) // 2]
        if name == "lambda_gradient":
            values["lambda_gradient_positive"] = sum(v > 0 for v in steps) / len(steps)
    return values


def read(path: pathlib.Path) -> list[Row]:
    """Reads a table; an absent file is an empty one.

    Raises:
      UserError: the file isn't a study's table.
    """
    if not path.exists():
        return []
    lines = csv.reader(io.StringIO(read_text(path, "the table of a study")))
    header = tuple(next(lines, ()))
    measured = header[len(_REQUIRED) :]
    if header[: len(_REQUIRED)] != _REQUIRED or not set(measured) <= set(MEASURES):
        raise UserError(
            f"{path}: expected the columns {', '.join(COLUMNS)}, found {', '.join(header)[:200]}; "
            "give another --csv, or remove the file"
        )
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(_row(dict(zip(header, line, strict=True))))
        except ValueError as error:
            raise UserError(
                f"{path}: line {number}: expected the values of {len(header)} columns, found "
                f"{','.join(line)[:100]!r}; remove the line"
            ) from error
    return rows


def _row(values: Mapping[str, str]) -> Row:
    types: dict[Any, Callable[[str], Any]] = {int: int, str: str}
    cell = Cell(**{f.name: types[f.type](values[f.name]) for f in dataclasses.fields(Cell)})
    measures = {name: float(values[name]) if values.get(name) else None for name in MEASURES}
    return Row(cell, values["flags"], measures)


def write(path: pathlib.Path, rows: Iterable[Row]) -> None:
    """Writes a table, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        numbers = [_text(row.measures[name]) for name in MEASURES]
        writer.writerow([*dataclasses.astuple(row.cell), row.flags, *numbers])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def write_records(path: pathlib.Path, records: Sequence[Any]) -> None:
    """Writes dataclasses of one kind as a table, whole or not at all; numbers to five digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(records[0])])
    for record in records:
        values = dataclasses.astuple(record)
        writer.writerow([f"{v:.5g}" if isinstance(v, float) else v for v in values])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def read_records(path: pathlib.Path, kind: type[Record]) -> list[Record]:
    """Reads a table of `write_records` back; UserError if it is none of this kind."""
    types = {field.name: field.type for field in dataclasses.fields(kind)}  # type: ignore[arg-type]

    def plain(row: Mapping[str, str]) -> dict[str, str | None]:
        """Nothing stands for None, except in a column of text."""
        return {
            name: text or ("" if types.get(name) is str else None) for name, text in row.items()
        }

    try:
        lines = csv.DictReader(read_text(path).splitlines())
        return [msgspec.convert(plain(row), kind, strict=False) for row in lines]
    except msgspec.ValidationError as error:
        raise UserError(
            f"{path}: expected a table with the columns {', '.join(types)}, found another "
            f"({error}); measure it again"
        ) from error
