"""Work shared among processes that end with this one; see workers.py."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

from gvvad_jax.command import UserError
from tools.studies.workers import Worker

# More processes than this need gigabytes of memory.
MOST_JOBS = 4
# A piece of work: what its result is known by, a function of a module, and its arguments.
Call = tuple[Any, ...]


def cores() -> list[int]:
    """The cores that this process may use; empty where the system doesn't tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextlib.contextmanager
def pool(jobs: int, folder: pathlib.Path) -> Iterator[list[Worker]]:
    """Starts processes, each on a core of its own where there are several, and ends them.

    Args:
      jobs: number of processes; 0 takes one a core, at most four.
      folder: gets worker-N.log, what process N prints.
    """
    available = cores()
    jobs = jobs or min(max(1, len(available)), MOST_JOBS)
    if jobs > 1:
        # Otherwise the first process would take a GPU's memory for itself.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        workers = []
        for number in range(jobs):
            core = available[number % len(available)] if jobs > 1 and available else None
            workers.append(Worker(folder / f"worker-{number}.log", core))
            stack.callback(workers[-1].end)
        yield workers


def finished(workers: Sequence[Worker], calls: Iterable[Call]) -> Iterator[tuple[Any, Any]]:
    """Has workers that do nothing else make calls; yields (name, value) as each one ends.

    Raises:
      UserError: a call raised one, or Interrupted.
      Interrupted: a process died.
    """
    waiting, busy = list(calls), {}
    while waiting or busy:
        for worker in workers:
            if worker not in busy and waiting:
                name, function, *arguments = waiting.pop(0)
                worker.start(function, *arguments)
                busy[worker] = name
        ready = connection.wait([worker.connection for worker in busy])
        for worker in [each for each in busy if each.connection in ready]:
            yield busy.pop(worker), value(worker)


def value(worker: Worker) -> Any:
    """Waits for a worker's call and returns its value; raises as `finished`."""
    outcome = worker.outcome()
    if outcome.refused:
        raise UserError(outcome.refused)
    return outcome.value


def as_ranks(workers: Sequence[Worker], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Has every worker make the same call as a rank of its own; see generation.ranks."""
    calls = [
        (rank, _as_rank, rank, len(workers), function, *arguments) for rank in range(len(workers))
    ]
    values = dict(finished(workers, calls))
    return [values[rank] for rank in range(len(workers))]


def _as_rank(rank: int, size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    own = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": "0"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        return function(*arguments)
    finally:
        for name, text in before.items():
            if text is None:
                del os.environ[name]
            else:
                os.environ[name] = text
