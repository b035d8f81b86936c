"""Sharing of work between processes: ranks of a launcher, workers of this machine or of Ray.

A launcher (torchrun, SLURM, a Kubernetes indexed job) starts one process per GPU and sets RANK and
WORLD_SIZE; each process takes every WORLD_SIZE-th item. With --workers, a process (of each rank, if
there are ranks) starts others on its machine, which take one item after another. With
--ray_workers, Ray starts the processes on the machines of its cluster. In any case one process does
all work on an item and writes the item's own file, so that any process may be killed and the same
command resumes. The output folder must be visible to all processes.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import tqdm

from gvvad_jax.command import Interrupted, UserError, check, group
from gvvad_jax.store import workers as processes

WORKERS = group("Workers")
# The flag of every command that loads a model.
DEVICE: str = WORKERS(
    "",
    "Device for the models, e.g. cuda or cpu (default: this rank's GPU, else the CPU).",
    free=True,
)
Item = TypeVar("Item")
# Processes items one after another and yields after each; finished items are skipped.
Work = Callable[[Sequence[Item]], Iterator[None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Processes that this one starts, or that Ray starts."""

    workers: int = WORKERS(
        1, "Processes that share the work; 0 takes one a core, at most four.", low=0, free=True
    )
    ray_workers: int = WORKERS(
        0, "Ray's worker processes; 0 works in this process.", low=0, free=True
    )
    gpus_a_worker: float | None = WORKERS(
        None,
        "GPUs per Ray worker (default: 1 if a model needs one and there is one).",
        low=0,
        free=True,
    )

    def __post_init__(self):
        check(self)
        if self.ray_workers and self.workers != 1:
            raise UserError(
                f"--ray_workers: expected none with --workers={self.workers}, found "
                f"{self.ray_workers}; leave one of them out"
            )

    @property
    def num_workers(self) -> int:
        """The processes of this machine; 1 stands for this process alone."""
        return self.workers or processes.usual_jobs()

    def gpus_per_worker(self, *, needs_gpu: bool = True) -> float:
        """Returns the GPUs that Ray gives a worker; without the flag, 1 if there is one here."""
        if self.gpus_a_worker is not None or not self.ray_workers or not needs_gpu:
            return self.gpus_a_worker or 0.0
        return float(this_ranks_device() != "cpu")


def rank_and_size() -> tuple[int, int]:
    """Returns RANK and WORLD_SIZE of the environment; (0, 1) if they are not set.

    Raises:
      UserError: they are not numbers with 0 <= RANK < WORLD_SIZE.
    """
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, size = int(texts[0]), int(texts[1])
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        raise UserError(
            f"RANK, WORLD_SIZE: expected 0 <= RANK < WORLD_SIZE, found {texts[0]!r} and "
            f"{texts[1]!r}; the launcher sets them, unset both for one process"
        )
    return rank, size


@functools.cache
def this_ranks_device() -> str:
    """Returns this process's GPU of the machine, by LOCAL_RANK; the CPU if there is none."""
    import torch

    gpus, local_rank = torch.cuda.device_count(), os.environ.get("LOCAL_RANK", "0")
    if not local_rank.isdecimal():
        raise UserError(
            f"LOCAL_RANK: expected a whole number, found {local_rank!r}; the launcher sets it, "
            "unset it for one process"
        )
    return f"cuda:{int(local_rank) % gpus}" if gpus else "cpu"


def share(items: Sequence[Item]) -> Sequence[Item]:
    """Returns this rank's part of the items."""
    rank, size = rank_and_size()
    return items[rank::size]


def each(
    make_work: Callable[[], Work],
    items: Sequence[Item],
    *,
    workers: int = 1,
    ray_workers: int = 0,
    gpus_a_worker: float = 0,
    label: str,
    unit: str,
    progress: bool = True,
) -> None:
    """Processes this rank's share of the items, or lets Ray's workers process all of them.

    Args:
      make_work: loads the models and returns the work; called once per process. With workers it
        must be a `functools.partial` of a module's function with plain arguments, because it is
        sent to other processes.
      items: the items; plain values with workers.
      workers: number of processes of this machine; 1 works in this process.
      ray_workers: number of Ray's workers; 0 works in this process.
      gpus_a_worker: GPUs per Ray worker.
      label, unit: texts of the progress bar.
      progress: whether to show a progress bar on standard error.

    Raises:
      UserError: ranks and Ray are combined, or Ray is not installed.
      Interrupted: processes died at work on some items; all others are done.
    """
    if not items:
        return
    if not ray_workers:
        mine = share(items)
        with tqdm.tqdm(total=len(mine), desc=label, unit=unit, disable=not progress) as bar:
            if workers > 1 and mine:
                _each_in_processes(make_work, mine, min(workers, len(mine)), bar)
                return
            for _ in make_work()(mine) if mine else ():
                bar.update()
        return
    if rank_and_size()[1] > 1:
        raise UserError(
            "--ray_workers: expected one process, found WORLD_SIZE over 1; share the work by "
            "ranks or by Ray, not by both"
        )
    with tqdm.tqdm(total=len(items), desc=label, unit=unit, disable=not progress) as bar:
        _each_under_ray(make_work, items, ray_workers, gpus_a_worker, bar)


def _each_in_processes(
    make_work: Callable[[], Work], items: Sequence[Item], count: int, bar: tqdm.tqdm
) -> None:
    """Has `count` processes work on the items, each on the next one when it is free.

    An item at which a process dies is left out, and another process takes its place, at most
    `count` times.
    """
    waiting, lost = collections.deque(items), list[Item]()
    busy: dict[processes.Worker, tuple[int, Item | None]] = {}
    with contextlib.ExitStack() as stack:

        def start(number: int) -> None:
            worker = processes.Worker(None)
            all_workers.append(worker)
            busy[worker] = number, None
            worker.start(_begin, make_work, number)

        all_workers: list[processes.Worker] = []
        stack.callback(processes.end, all_workers)
        for number in range(count):
            start(number)
        while busy:
            for worker in processes.ready(busy):
                number, item = busy.pop(worker)
                try:
                    printed = processes.value(worker)
                except Interrupted:
                    if item is None or len(lost) >= count:
                        raise
                    lost.append(item)
                    start(number)
                    continue
                if item is not None:
                    bar.update()
                if printed:
                    bar.write(printed, file=sys.stderr)
                if waiting:
                    busy[worker] = number, waiting.popleft()
                    worker.start(_do, busy[worker][1])
    if lost:
        names = ", ".join(map(str, lost))
        raise Interrupted(
            f"--workers: expected processes to do all {len(items)}, found that one died at work "
            f"on each of {names}; the others are done: run the same command again to try these, "
            "with fewer --workers if memory is short, or remove them"
        )


# What `make_work` returned in a process of --workers.
_work: Work | None = None


def _begin(make_work: Callable[[], Work], number: int) -> str:
    """Loads the models in process `number`, on the GPU of that number if there are several."""
    global _work
    os.environ.setdefault("LOCAL_RANK", str(number))
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        _work = make_work()
    return _lines(printed.getvalue())


def _do(item: Item) -> str:
    """Works on an item in a process of --workers; returns what it printed, for the one bar."""
    assert _work is not None
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        for _ in _work([item]):
            pass
    return _lines(printed.getvalue())


def _lines(printed: str) -> str:
    """What a process printed, without its own progress bars."""
    return "\n".join(line for line in printed.split("\n") if line and "\r" not in line)


def _each_under_ray(
    make_work: Callable[[], Work],
    items: Sequence[Item],
    ray_workers: int,
    gpus_a_worker: float,
    bar: tqdm.tqdm,
) -> None:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"--ray_workers: expected Ray to be installed, found {error}; pip install '.[ray]'"
        ) from error

    threads = os.environ.get("OMP_NUM_THREADS")

    class Actor:
        """Does the work, one item per call; returns a UserError as a row."""

        def __init__(self):
            self.work = None
            # Ray sets one thread. With as many threads as in a plain process, sums have the same
            # last bits as there. PyTorch is not imported yet.
            if threads is None:
                os.environ.pop("OMP_NUM_THREADS", None)
            else:
                os.environ["OMP_NUM_THREADS"] = threads

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            try:
                self.work = self.work or make_work()
                for _ in self.work([row["item"]]):
                    pass
            except UserError as error:
                return {"mistake": str(error)}
            return {"mistake": ""}

    if not ray.is_initialized():
        # The cluster of RAY_ADDRESS, else a new one on this machine.
        ray.init(include_dashboard=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # One block per item; otherwise one worker would get all items.
    rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    done = rows.map(
        Actor,
        compute=ray.data.ActorPoolStrategy(size=ray_workers),
        # With as many workers as cores, no core would be left for reading their input.
        num_cpus=0.5,
        num_gpus=gpus_a_worker,
    )
    for outcome in done.iter_rows():
        if outcome["mistake"]:
            raise UserError(outcome["mistake"])
        bar.update()
