"""Generate a video of each description with any backend, resuming and sharing among ranks."""

import fcntl
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from generation import ranks
from generation.prompts.descriptions import Description
from generation.videos import identity, records
from generation.videos.backends import Backend
from gvvad_jax.store import folders
from gvvad_jax.store.files import write_json


def generate(
    descriptions: Sequence[Description],
    backend: Backend,
    out: str | os.PathLike,
    *,
    split: str | Mapping[str, str] = "train",
    progress: bool = True,
    workers: int = 1,
    ray_workers: int = 0,
    gpus_a_worker: float = 0,
) -> pathlib.Path:
    """Generates a video of each description, except those already there, and lists them.

    Args:
      descriptions: descriptions with different ids.
      backend: generates the videos.
      out: the folder, absent, empty or of an earlier call. It gets videos/, videos.json, clips/
        (one record per video, to resume by), errors.json, prepared/ (files of the backend, until
        all videos are there), model.json (the weights that were used) and, from the world,
        world_truth.json, which only checks may read.
      split: split in videos.json: one for all, or one per id.
      progress: whether to show a progress bar on standard error.
      workers, ray_workers, gpus_a_worker: see `ranks.each`.

    Returns:
      The path of videos.json. The file exists once every rank has finished its share.

    Raises:
      UserError: `out` has videos of other settings or other weights, or files of anything else, or
        another process is at work there; or the model cuts prompts so that twins would be equal.
      Interrupted: all videos failed.
    """
    out = pathlib.Path(out)
    records.require_this_version(out)
    folders.claim(out, records.KIND)
    rank, size = ranks.rank_and_size()
    busy = (
        f"{out}: expected no other generation of videos at work there, found one"
        + (f" of the same rank ({rank} of {size})" if size > 1 else "")
        + "; wait until it has ended, or give another --out"
    )
    with folders.locked(out / f".lock-{rank}", busy):
        if size == 1:
            folders.clear_litter(out, "*/.*.partial*")
        shared = {"workers": workers, "ray_workers": ray_workers, "gpus_a_worker": gpus_a_worker}
        return _generate(descriptions, backend, out, split, progress, shared)


def _generate(
    descriptions: Sequence[Description],
    backend: Backend,
    out: pathlib.Path,
    split: str | Mapping[str, str],
    progress: bool,
    shared: Mapping[str, Any],
) -> pathlib.Path:
    """Generates videos into a folder that no other process uses, except other ranks."""
    for folder in ("videos", "clips"):
        (out / folder).mkdir(exist_ok=True)
    # This refuses other settings and other weights before any work is done.
    done_ids = {d.id for d in descriptions if records.is_done(out, d, backend)}
    is_complete = len(done_ids) == len(descriptions)
    if not is_complete:
        records.begin(out, descriptions)
    backend.examine(descriptions, records.weights(out), is_complete)
    # Ranks share all videos, done or not; otherwise their shares would depend on who comes first.
    # Ray gets only those left. Workers take one item at a time, so there an item is a batch.
    elsewhere = shared["ray_workers"] > 0 or shared["workers"] > 1
    size = backend.batch_size if elsewhere else 1
    ids = [d.id for d in descriptions if not shared["ray_workers"] or d.id not in done_ids]
    ranks.each(
        functools.partial(_start, backend, out.resolve(), tuple(descriptions), elsewhere),
        [ids[start : start + size] for start in range(0, len(ids), size)],
        **shared,
        label="videos",
        unit="video" if size == 1 else f"batch of {size}",
        progress=progress,
    )
    records.finish(out, descriptions, split)
    return out / "videos.json"


def _start(
    backend: Backend, out: pathlib.Path, descriptions: Sequence[Description], in_worker: bool
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
            # A worker does not know which items it will get, so it prepares for all.
            own_ids = [name for ids in items for name in ids]
            upcoming = missing(list(described) if in_worker else own_ids)
            if upcoming and in_worker:
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
    weights = backend.prepare(upcoming, out / "prepared", records.weights(out))
    if weights:
        # Another rank may have begun the set since.
        identity.check(records.weights(out), weights)
        if not (out / "model.json").exists():
            write_json(out / "model.json", dict(weights), sort_keys=True)


def _prepare_in_turn(backend: Backend, upcoming: Sequence[Description], out: pathlib.Path) -> None:
    """Prepares in the first worker; the others wait and then use its files."""
    folder = out / "prepared"
    folder.mkdir(exist_ok=True)
    done_marker = folder / "all"
    # A link is not followed, because opening it would create its target.
    with open(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # It is released when its process dies.
        if not done_marker.exists():
            _prepare(backend, upcoming, out)
            done_marker.touch()
            return
    _prepare(backend, upcoming, out)
