"""Generate a video of each description with any backend, resuming and sharing among ranks."""

import fcntl
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from generation import ranks
from generation.prompts.descriptions import Description
from generation.videos import identity, records
from generation.videos.backends import Backend
from gvvad_jax.store.files import read_json, write_json


def generate(
    descriptions: Sequence[Description],
    backend: Backend,
    out: str | os.PathLike,
    *,
    split: str | Mapping[str, str] = "train",
    progress: bool = True,
    ray_workers: int = 0,
    gpus_a_worker: float = 0,
) -> pathlib.Path:
    """Generates a video of each description, except those already there, and lists them.

    Args:
      descriptions: descriptions with different ids.
      backend: generates the videos.
      out: the folder. It gets videos/, videos.json, clips/ (one record per video, to resume by),
        errors.json, prepared/ (files of the backend, until all videos are there), model.json (the
        weights that were used) and, from the world, world_truth.json, which only checks may read.
      split: split in videos.json: one for all, or one per id.
      progress: whether to show a progress bar on standard error.
      ray_workers, gpus_a_worker: see `ranks.each`.

    Returns:
      The path of videos.json. The file exists once every rank has finished its share.

    Raises:
      UserError: `out` has videos of other settings or other weights, or all videos failed.
    """
    out = pathlib.Path(out)
    for folder in ("videos", "clips"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    # This refuses other settings before any work is done.
    done_ids = {d.id for d in descriptions if records.is_done(out, d, backend)}
    if len(done_ids) < len(descriptions):
        records.begin(out, descriptions)
    # Ranks share all videos, done or not; otherwise their shares would depend on who comes first.
    # Ray gets only those left. Its workers take one item at a time, so there an item is a batch.
    size = backend.batch_size if ray_workers else 1
    ids = [d.id for d in descriptions if not ray_workers or d.id not in done_ids]
    ranks.each(
        functools.partial(_start, backend, out.resolve(), tuple(descriptions), bool(ray_workers)),
        [ids[start : start + size] for start in range(0, len(ids), size)],
        ray_workers=ray_workers,
        gpus_a_worker=gpus_a_worker,
        label="videos",
        unit="video" if size == 1 else f"batch of {size}",
        progress=progress,
    )
    records.finish(out, descriptions, split)
    return out / "videos.json"


def _start(
    backend: Backend, out: pathlib.Path, descriptions: Sequence[Description], under_ray: bool
) -> ranks.Work:
    """Returns the work of one process, whose items are lists of ids. It loads the model late."""
    described = {description.id: description for description in descriptions}
    prepared = False

    def missing(ids: Sequence[str]) -> list[Description]:
        requested = [described[str(name)] for name in ids]
        return [one for one in requested if not records.is_done(out, one, backend)]

    def work(items: Sequence[Sequence[str]]) -> Iterator[None]:
        nonlocal prepared
        if not prepared:
            # A worker of Ray does not know which items it will get, so it prepares for all.
            own_ids = [name for ids in items for name in ids]
            upcoming = missing(list(described) if under_ray else own_ids)
            if upcoming and under_ray:
                _prepare_in_turn(backend, upcoming, out)
            elif upcoming:
                _prepare(backend, upcoming, out)
            prepared = bool(upcoming)
        batch, finished = [], 0
        for ids in items:
            batch += missing(ids)
            finished += 1
            if not batch or len(batch) >= backend.batch_size:
                records.generate_batch(out, batch, backend)
                yield from [None] * finished
                batch, finished = [], 0
        records.generate_batch(out, batch, backend)
        yield from [None] * finished

    return work


def _prepare(backend: Backend, upcoming: Sequence[Description], out: pathlib.Path) -> None:
    """Has the backend load its model; refuses weights other than those of the first video."""
    path = out / "model.json"
    recorded = read_json(path) if path.exists() else None
    weights = backend.prepare(upcoming, out / "prepared", recorded)
    if weights and not path.exists():
        write_json(path, dict(weights), sort_keys=True)
    elif weights:
        identity.check(read_json(path), weights)  # Another rank may have written it since.


def _prepare_in_turn(backend: Backend, upcoming: Sequence[Description], out: pathlib.Path) -> None:
    """Prepares in the first worker; the others wait and then use its files."""
    folder = out / "prepared"
    folder.mkdir(exist_ok=True)
    done_marker = folder / "all"
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # It is released when its process dies.
        if not done_marker.exists():
            _prepare(backend, upcoming, out)
            done_marker.touch()
            return
    _prepare(backend, upcoming, out)
