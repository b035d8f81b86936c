"""The log of a run: metrics.jsonl, and what its loggers get, written while it trains."""

import io
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gvvad_jax.command import Interrupted
from gvvad_jax.run.loggers import Loggers
from gvvad_jax.store.files import as_type, require_regular, write_atomically


class RunLog:
    """Writes metrics.jsonl and to loggers, and ends a run whose loss is NaN.

    The log of a resumed run reads like that of an uninterrupted one.

    Args:
      workdir: the run's folder; None in all but the first of several processes, which write
        nothing.
      start: the step that the run starts at; what was logged after it is removed.
      loggers: names of loggers.NAMES.
      settings: the run's settings, for loggers that show some.

    Attributes:
      latest: the last loss and validation AUC, for the progress bar.
    """

    def __init__(
        self,
        workdir: pathlib.Path | None,
        start: int,
        loggers: Sequence[str] = ("tensorboard",),
        settings: Mapping[str, Any] | None = None,
    ):
        self.latest: dict[str, float] = {}
        self._file: io.TextIOWrapper | None = None
        self._measures: Mapping[str, Any] | None = None
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        logged = list(_whole_lines(path))
        kept = [line for line, step, _ in logged if step <= start]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        before = [(step, values) for _, step, values in logged]
        self._loggers = Loggers(loggers, workdir, start, settings or {}, before)

    def training(self, step: int, metrics: Mapping[str, jax.Array], every: int) -> None:
        """Fetches a step's metrics and writes those of every so many steps.

        Raises:
          Interrupted: the loss, or the parameters after the step, aren't finite.
        """
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        checked = {name: values[name] for name in ("loss", "update_norm", "param_norm")}
        if not np.isfinite(list(checked.values())).all():
            shown = ", ".join(f"{name} {value:g}" for name, value in checked.items())
            raise Interrupted(
                f"step {step}: expected a finite loss, update and parameters, found {shown}; in "
                "another --workdir lower --learning_rate or set --clip_norm (gvvad store "
                "checks the features)"
            )
        self.latest["loss"] = values["loss"]
        if step % every == 0:
            self.write(step, values)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes a line of values; None where a measure isn't defined."""
        if (auc := values.get("validation_auc")) is not None:
            self.latest["validation_auc"] = auc
        if not values or not self._file:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        self._loggers.write(step, values)

    def finish(self, measures: Mapping[str, Any]) -> None:
        """Takes the test measures of a run that is finished, for loggers that show them."""
        self._measures = measures

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._loggers.close(self._measures)


def read(path: pathlib.Path) -> list[tuple[int, dict[str, float | None]]]:
    """Reads metrics.jsonl, which may be of a run that goes on.

    Returns:
      (step, values by name) of each line, in the order of steps; empty where there is no file.
      Damaged lines are reported and left out.
    """
    return sorted(((s, values) for _, s, values in _whole_lines(path)), key=lambda line: line[0])


def _whole_lines(path: pathlib.Path) -> Iterator[tuple[str, int, dict[str, float | None]]]:
    """Yields the lines of a log with their steps and values.

    A last line that was cut short when the run was killed is left out, and so are damaged ones,
    which are reported.
    """
    if not path.exists():
        return
    require_regular(path, "the log of a run")
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode(), *_parse(line)
        except (ValueError, RecursionError):
            if number < len(lines):  # The last one is empty, or cut short.
                print(
                    f"{path}: line {number}: expected a line of the log, found {line[:60]!r}; it "
                    "is left out",
                    file=sys.stderr,
                )


def _parse(line: bytes) -> tuple[int, dict[str, float | None]]:
    """The step and the values of a line; ValueError for anything else."""
    values: dict[str, float | None] = as_type(dict[str, float | None])(json.loads(line))
    step = values.pop("step", None)
    if step is None or step != int(step):
        raise ValueError("expected a step")
    return int(step), values
