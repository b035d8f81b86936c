"""Sharing work among processes: ranks of a launcher, or actors of Ray, around the same callable.

A launcher (torchrun, SLURM, a Kubernetes indexed job) starts one process a GPU and sets RANK and
WORLD_SIZE; each takes every WORLD_SIZE-th item. With `ray_workers` Ray starts the processes, on all
machines of its cluster. Either way an item is made whole by one process and writes its own file, so
that any of them may die and the same command goes on; the folder must be one that all of them see.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import tqdm

from gvvad_jax.command import UserError, option

# A flag of everything that loads a model.
DEVICE = option(
    "", "of the models: cuda, cpu ...; this rank's GPU where there is one unless told", free=True
)
Item = TypeVar("Item")
# Makes items one after another, yielding after each; does nothing for one that is there already.
Work = Callable[[Sequence[Item]], Iterator[Any]]


def rank_and_size() -> tuple[int, int]:
    """(RANK, WORLD_SIZE) of the environment, (0, 1) without.

    Raises:
      UserError: they aren't numbers with 0 <= RANK < WORLD_SIZE.
    """
    given = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, size = int(given[0]), int(given[1])
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        raise UserError(
            f"RANK, WORLD_SIZE: expected 0 <= RANK < WORLD_SIZE, found {given[0]!r} and "
            f"{given[1]!r}; the launcher sets them, unset both for one process"
        )
    return rank, size


@functools.cache
def this_ranks_device() -> str:
    """The GPU that this process is to take of its machine's, by LOCAL_RANK; else the CPU."""
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % gpus}" if gpus else "cpu"


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's part of the items."""
    rank, size = rank_and_size()
    return items[rank::size]


def each(
    make_work: Callable[[], Work],
    items: Sequence[Item],
    *,
    ray_workers: int = 0,
    gpus_a_worker: float = 0,
    label: str,
    unit: str,
    progress: bool = True,
) -> None:
    """Does this process's share of the items, or has Ray's actors do all of them.

    Args:
      make_work: loads what the work needs (a model) and returns the work; called once a process.
        With Ray it goes to other processes: a `functools.partial` of a function of a module, with
        plain arguments.
      items: what to make; plain values with Ray.
      ray_workers: actors, 0 to work in this process.
      gpus_a_worker: GPUs that Ray gives an actor.
      label, unit: of the bar.
      progress: a bar on standard error.

    Raises:
      UserError: ranks and Ray at once, or Ray isn't installed; whatever the work raises.
    """
    if not items:
        return
    if not ray_workers:
        mine = share(items)
        with tqdm.tqdm(total=len(mine), desc=label, unit=unit, disable=not progress) as bar:
            for _ in make_work()(mine) if mine else ():
                bar.update()
        return
    if rank_and_size()[1] > 1:
        raise UserError(
            "--ray_workers: expected one process, found WORLD_SIZE over 1; share the work by "
            "ranks or by Ray, not by both"
        )
    _each_under_ray(make_work, items, ray_workers, gpus_a_worker, label, unit, progress)


def _each_under_ray(make_work, items, ray_workers, gpus_a_worker, label, unit, progress) -> None:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"--ray_workers: expected Ray to be installed, found {error}; pip install '.[ray]'"
        ) from error

    threads = os.environ.get("OMP_NUM_THREADS")

    class Actor:
        """The same work, an item a call; a user's mistake comes back as a row."""

        def __init__(self):
            self.work = None
            # Ray gives an actor a thread. Sums over as many threads as in a process of its own are
            # what makes the last bits the same as there; PyTorch isn't imported yet.
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
        # A cluster named by RAY_ADDRESS, else one on this machine.
        ray.init(include_dashboard=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # A block an item, or one actor would get them all.
    rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    done = rows.map(
        Actor,
        compute=ray.data.ActorPoolStrategy(size=ray_workers),
        # As many actors as cores would leave no core for reading their input, and hang.
        num_cpus=0.5,
        num_gpus=gpus_a_worker,
    )
    with tqdm.tqdm(total=len(items), desc=label, unit=unit, disable=not progress) as bar:
        for outcome in done.iter_rows():
            if outcome["mistake"]:
                raise UserError(outcome["mistake"])
            bar.update()
