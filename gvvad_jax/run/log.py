"""What a run writes while it trains: metrics.jsonl and TensorBoard events."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gvvad_jax.command import Interrupted
from gvvad_jax.store.files import write_atomically


class RunLog:
    """metrics.jsonl and TensorBoard. A resumed run's log reads like an uninterrupted one's.

    Without a folder it only looks out for NaN.
    """

    def __init__(self, workdir: pathlib.Path | None, start: int):
        self._file = self._board = None
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= start]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._folder, self._start = workdir / "tensorboard", start

    def training(self, step: int, metrics: Any, every: int) -> None:
        """Fetches a step's metrics and writes them at the log's pace.

        Raises:
          Interrupted: the loss, or the parameters after the step, aren't finite.
        """
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        told = {name: values[name] for name in ("loss", "update_norm", "param_norm")}
        if not np.isfinite(list(told.values())).all():
            found = ", ".join(f"{name} {value:g}" for name, value in told.items())
            raise Interrupted(
                f"step {step}: expected a finite loss, update and parameters, found {found}; in "
                "another --workdir lower --learning_rate or set --clip_norm (python -m "
                "gvvad_jax.store checks the features)"
            )
        if step % every == 0:
            self.write(step, values)

    def write(self, step: int, values: dict[str, float]) -> None:
        if not values or not self._file:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if not self._board:
            import tensorboardX  # A second, which the first step needn't wait for.

            self._board = tensorboardX.SummaryWriter(
                str(self._folder), purge_step=self._start, write_to_disk=True
            )
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        for opened in (self._file, self._board):
            if opened:
                opened.close()


def _whole_lines(path: pathlib.Path) -> Iterator[str]:
    """Lines of a log, less the one that a kill cut short."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            json.loads(line)
        except ValueError:
            return
        yield line
