"""Processes that work for this one, and end with it however it ends. Nothing of JAX or PyTorch."""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection as connections
from typing import Any

from gvvad_jax.command import Interrupted, UserError

# More processes than this need gigabytes of memory.
MOST_JOBS = 4
# Seconds that idle processes get to end by themselves.
_PATIENCE = 1.0
# A piece of work: what its result is known by, a function of a module, and its arguments.
Call = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a piece of work.

    Attributes:
      value: what the function returned; None where it raised.
      refused: the one line of a UserError or Interrupted; empty where there was none.
      is_mistake: whether it was a UserError.
    """

    value: Any = None
    refused: str = ""
    is_mistake: bool = False


class Worker:
    """A process that calls functions, one after another; compiled programs stay in it.

    Args:
      log: file that gets what the process prints; None for this process's own output.
      core: the core that it runs on; None for all.

    Attributes:
      connection: has something to read when a call has ended.
    """

    def __init__(self, log: pathlib.Path | None, core: int | None = None):
        if core is not None:
            # The process inherits this. On one core, a BLAS with a thread for each core of the
            # machine waits for its own threads: choosing lambda took ten times as long.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._log = log
        path = None if log is None else str(log)
        self._process = context.Process(target=_serve, args=(other, path, core), daemon=True)
        self._process.start()
        other.close()

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Starts a call; the function is one of a module."""
        with contextlib.suppress(OSError):  # The process died, which `outcome` reports.
            self.connection.send((function, arguments))

    def outcome(self) -> Outcome:
        """Waits for the call that was started.

        Raises:
          Interrupted: the process died.
          RuntimeError: the function raised anything but a UserError or Interrupted.
        """
        try:
            outcome, fault = self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise Interrupted(
                f"{self._log or 'a worker'}: expected its result, found that the process ended "
                f"with {self._process.exitcode}; run the same command again to go on"
            ) from error
        if fault:
            raise RuntimeError(fault)
        assert isinstance(outcome, Outcome)
        return outcome

    def end(self) -> None:
        """Ends the process, in the middle of a call if need be."""
        end([self])


def end(workers: Sequence[Worker]) -> None:
    """Ends processes, in the middle of their calls if need be."""
    for worker in workers:
        worker.connection.close()
    latest = time.monotonic() + _PATIENCE
    for worker in workers:
        worker._process.join(max(0.0, latest - time.monotonic()))
        worker._process.terminate()
    for worker in workers:
        worker._process.join()


def cores() -> list[int]:
    """The cores that this process may use; empty where the system doesn't tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def usual_jobs() -> int:
    """One process a core, at most four."""
    return min(max(1, len(cores())), MOST_JOBS)


@contextlib.contextmanager
def pool(jobs: int, folder: pathlib.Path) -> Iterator[list[Worker]]:
    """Starts processes, each on a core of its own where there are several, and ends them.

    Args:
      jobs: number of processes; 0 takes one a core, at most four.
      folder: gets worker-N.log, what process N prints.
    """
    available = cores()
    jobs = jobs or usual_jobs()
    if jobs > 1:
        # Otherwise the first process would take a GPU's memory for itself.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        stack.callback(end, workers)
        for number in range(jobs):
            core = available[number % len(available)] if jobs > 1 and available else None
            workers.append(Worker(folder / f"worker-{number}.log", core))
        yield workers


def finished(workers: Sequence[Worker], calls: Iterable[Call]) -> Iterator[tuple[Any, Any]]:
    """Has workers that do nothing else make calls; yields (name, value) as each one ends.

    Raises:
      UserError: a call raised one, or Interrupted.
      Interrupted: a process died.
    """
    waiting, busy = list(calls), dict[Worker, Any]()
    while waiting or busy:
        for worker in workers:
            if worker not in busy and waiting:
                name, function, *arguments = waiting.pop(0)
                worker.start(function, *arguments)
                busy[worker] = name
        for worker in ready(busy):
            yield busy.pop(worker), value(worker)


def ready(busy: Iterable[Worker]) -> list[Worker]:
    """Waits until calls of some workers have ended; returns these workers."""
    busy = list(busy)
    readable = connections.wait([worker.connection for worker in busy])
    return [worker for worker in busy if worker.connection in readable]


def value(worker: Worker) -> Any:
    """Waits for a worker's call and returns its value; raises as `finished`."""
    outcome = worker.outcome()
    if outcome.refused:
        raise UserError(outcome.refused)
    return outcome.value


def _serve(connection: connections.Connection, log: str | None, core: int | None) -> None:
    """Calls what it is sent, until the connection closes."""
    # An interrupt goes to the process that started this one, which then ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if core is not None:
        # Before JAX starts its threads: it starts as many as it sees cores.
        os.sched_setaffinity(0, {core})
        os.environ["OMP_NUM_THREADS"] = "1"
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        outcome, fault = Outcome(), ""
        try:
            outcome = Outcome(function(*arguments))
        except (UserError, Interrupted) as error:
            line = " ".join(str(error).split())
            outcome = Outcome(refused=line, is_mistake=isinstance(error, UserError))
        except BaseException:
            fault = traceback.format_exc()
        connection.send((outcome, fault))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
