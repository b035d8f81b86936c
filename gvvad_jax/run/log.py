"""The log of a run: metrics.jsonl and TensorBoard events, written while it trains."""

import io
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import jax
import numpy as np

from gvvad_jax.command import Interrupted
from gvvad_jax.store.files import as_type, require_regular, write_atomically

if TYPE_CHECKING:
    import tensorboardX


class RunLog:
    """Writes metrics.jsonl and TensorBoard events, and ends a run whose loss is NaN.

    The log of a resumed run reads like that of an uninterrupted one.

    Args:
      workdir: the run's folder; None in all but the first of several processes, which write
        nothing.
      start: the step that the run starts at; what was logged after it is removed.

    Attributes:
      latest: the last loss and validation AUC, for the progress bar.
    """

    def __init__(self, workdir: pathlib.Path | None, start: int):
        self.latest: dict[str, float] = {}
        self._file: io.TextIOWrapper | None = None
        self._board: tensorboardX.SummaryWriter | None = None
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line, step, _ in _whole_lines(path) if step <= start]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._folder, self._start = workdir / "tensorboard", start

    def training(self, step: int, metrics: Mapping[str, jax.Array], every: int) -> None:
        """Fetches a step's metrics and writes those of every so many steps.

        Raises:
          Interrupted: the loss, or the parameters after the step, aren't finite.
        """
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        checked = {name: values[name] for name in ("loss", "update_norm", "param_norm")}
        if not np.isfinite(list(checked.values())).all():
            shown = ", ".join(f"{name} {value:g}" for name, value in checked.items())
            raise Interrupted(
                f"step {step}: expected a finite loss, update and parameters, found {shown}; in "
                "another --workdir lower --learning_rate or set --clip_norm (python -m "
                "gvvad_jax.store checks the features)"
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
        if not self._board:
            tensorboardX = _import_tensorboard()  # The first step starts without it.
            # The first step that is purged; the line of the step that the run starts at stays.
            self._board = tensorboardX.SummaryWriter(
                str(self._folder), purge_step=self._start + 1, write_to_disk=True
            )
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        for opened in (self._file, self._board):
            if opened:
                opened.close()


def _import_tensorboard() -> ModuleType:
    """Imports tensorboardX without PyTorch, which it asks for and which takes 1.5 seconds."""
    without = "torch" not in sys.modules
    if without:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX
    finally:
        if without:
            del sys.modules["torch"]
    return tensorboardX


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
