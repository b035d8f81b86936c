"""Where a run's metrics go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

Keys and addresses come from the environment alone, as each library names them. A logger that fails
is left out from then on, which is said once; training goes on.
"""

import contextlib
import importlib
import math
import os
import pathlib
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_json_as, write_json

# The module of each logger that needs an extra.
_MODULES = {"wandb": "wandb", "mlflow": "mlflow"}
NAMES = ("tensorboard", *_MODULES)
# Project of Weights & Biases and experiment of MLflow, unless the environment names another.
_PROJECT = "gvvad"

Values = Mapping[str, float]


class Logger(Protocol):
    """One place that metrics go to."""

    def write(self, step: int, values: Values) -> None:
        """Logs the values of a step."""

    def close(self, measures: Values | None) -> None:
        """Ends the log; `measures` are those of the finished run, None for one that is stopped."""


def parse(names: str) -> list[str]:
    """The loggers of --loggers, in order.

    Raises:
      UserError: an unknown name.
    """
    listed = list(dict.fromkeys(name for name in names.split(",") if name))
    for name in listed:
        if name not in NAMES:
            raise UserError(
                f"--loggers: expected {', '.join(NAMES)}, separated by commas, found {name!r}; "
                "correct the flag"
            )
    return listed


def require(names: str) -> None:
    """Raises UserError if a logger's package is missing or can't be imported."""
    for name in parse(names):
        if name not in _MODULES:
            continue
        try:
            importlib.import_module(_MODULES[name])
        except ImportError as error:
            found = "none" if isinstance(error, ModuleNotFoundError) else f"one that fails: {error}"
            raise UserError(
                f"--loggers={name}: expected the package {name}, found {found}; pip install "
                "'.[loggers]', or leave it out"
            ) from error


class Loggers:
    """The loggers of one run; each opens with the first line that it gets.

    Args:
      names: of NAMES.
      workdir: the run's folder, which keeps the ids of its logs, so that a resumed run goes on in
        them.
      start: the step that the run starts at.
      settings: the run's settings, for the loggers that show some.
      logged: the lines (step, values) that were logged before the run was stopped, in order; those
        after `start` are logged again with the same values, and aren't repeated. A logger that
        the run hasn't had before gets those up to `start` first.
    """

    def __init__(
        self,
        names: Sequence[str],
        workdir: pathlib.Path,
        start: int,
        settings: Mapping[str, Any],
        logged: Sequence[tuple[int, Mapping[str, float | None]]] = (),
    ):
        self._workdir, self._start, self._settings = workdir, start, settings
        self._logged = [(step, _numbers(values)) for step, values in logged]
        self._repeated = {_key(step, values) for step, values in self._logged}
        self._waiting = list(names)
        self._open: dict[str, Logger] = {}
        # Those that have the lines of `logged`.
        self._resumed: set[str] = set()

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Logs a line; values that aren't numbers are left out."""
        self._open_waiting()
        numbers = _numbers(values)
        repeated = _key(step, numbers) in self._repeated
        for name, logger in list(self._open.items()):
            if numbers and not (repeated and name in self._resumed):
                with self._guarded(name):
                    logger.write(step, numbers)

    def close(self, measures: Mapping[str, Any] | None) -> None:
        """Ends all logs; see Logger.close."""
        numbers = None if measures is None else _numbers(measures)
        if numbers is not None:
            # A run that was stopped while it was measured goes on without a line.
            self._open_waiting()
        for name, logger in list(self._open.items()):
            with self._guarded(name):
                logger.close(numbers)
        self._open.clear()

    def _open_waiting(self) -> None:
        while self._waiting:
            name = self._waiting.pop(0)
            with self._guarded(name):
                self._open[name] = self._start_of(name)

    def _start_of(self, name: str) -> Logger:
        if name == "tensorboard":
            folder = self._workdir / "tensorboard"
            joins = not folder.exists()
            # Purges by itself what is logged again.
            board = _TensorBoard(folder, self._start)
            if joins:
                self._log_earlier(board)
            return board
        path = self._workdir / "loggers.json"
        remedy = "remove it: the loggers then begin a new log"
        ids = read_json_as(path, dict[str, str], "ids of logs", remedy) if path.exists() else {}
        maker = _WandB if name == "wandb" else _MLflow
        logger: _WandB | _MLflow = maker(self._workdir, self._settings, ids.get(name))
        if name in ids:
            self._resumed.add(name)
        else:
            self._log_earlier(logger)
            write_json(path, ids | {name: logger.id})
        return logger

    def _log_earlier(self, logger: Logger) -> None:
        """Gives a logger that joins the run the lines up to where it goes on."""
        for step, values in self._logged:
            if step <= self._start and values:
                logger.write(step, values)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Libraries and servers fail in many ways.
            self._open.pop(name, None)
            reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            print(
                f"--loggers={name}: logs nothing from here on ({reason}); training goes on, and "
                "metrics.jsonl has everything",
                file=sys.stderr,
            )


def _key(step: int, values: Values) -> tuple[int, frozenset[str]]:
    return step, frozenset(values)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are finite numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


class _TensorBoard:
    """TensorBoard events in a folder."""

    def __init__(self, folder: pathlib.Path, start: int):
        tensorboardX = _import_tensorboard()
        # The first step that is purged; the line of the step that the run starts at stays.
        self._board = tensorboardX.SummaryWriter(
            str(folder), purge_step=start + 1, write_to_disk=True
        )

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self, measures: Values | None) -> None:
        self._board.close()


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


class _WandB:
    """A run of Weights & Biases; offline, in the run's folder, without WANDB_API_KEY."""

    def __init__(self, workdir: pathlib.Path, settings: Mapping[str, Any], id: str | None):
        import wandb

        self.id = id or secrets.token_hex(8)
        offline = not os.environ.get("WANDB_API_KEY") and not os.environ.get("WANDB_MODE")
        if offline:
            print(
                "--loggers=wandb: no WANDB_API_KEY, so it logs offline: wandb sync "
                f"{workdir}/wandb/offline-* uploads it",
                file=sys.stderr,
            )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=os.environ.get("WANDB_NAME") or workdir.name,
            id=self.id,
            resume="allow",
            # A run that the calling program has goes on beside this one.
            reinit="create_new",
            dir=str(workdir),
            config=dict(settings),
            mode="offline" if offline else None,
            # Neither the code, nor its repository, nor what is printed.
            settings=wandb.Settings(
                silent=True, console="off", save_code=False, disable_code=True, disable_git=True
            ),
        )

    def write(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def close(self, measures: Values | None) -> None:
        if measures is not None:
            self._run.summary.update({f"test/{name}": v for name, v in measures.items()})
        self._run.finish(exit_code=0 if measures is not None else 1)


class _MLflow:
    """A run of MLflow, in the run's folder without MLFLOW_TRACKING_URI."""

    def __init__(self, workdir: pathlib.Path, settings: Mapping[str, Any], id: str | None):
        # A server that doesn't answer holds up a step for seconds instead of many minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (workdir.resolve() / "mlruns").as_uri()
        if uri.startswith("file:"):
            # MLflow 3 wants a database, which takes more packages; files are enough for one run.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client, self._last = MlflowClient(tracking_uri=uri), 0
        if id:
            self.id = id
            self._client.update_run(id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = (
            experiment.experiment_id if experiment else self._client.create_experiment(name)
        )
        self.id = self._client.create_run(experiment_id, run_name=workdir.name).info.run_id
        params = [Param(name, str(value)[:500]) for name, value in settings.items()]
        for start in range(0, len(params), 100):  # The most of a request.
            self._client.log_batch(self.id, params=params[start : start + 100])

    def write(self, step: int, values: Values) -> None:
        from mlflow.entities import Metric

        now, self._last = int(time.time() * 1000), step
        self._client.log_batch(
            self.id, metrics=[Metric(name, value, now, step) for name, value in values.items()]
        )

    def close(self, measures: Values | None) -> None:
        if measures is not None:
            self.write(self._last, {f"test/{name}": value for name, value in measures.items()})
        self._client.set_terminated(self.id, "FINISHED" if measures is not None else "KILLED")
