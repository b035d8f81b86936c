"""Makes a video of each description, by any backend; resumable and shared by ranks."""

import fcntl
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from generation import ranks
from generation.prompts.descriptions import Description
from generation.videos import identity, records
from generation.videos.backends import Backend
from gvvad_jax.command import UserError
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
    """Makes a video of each description, resuming what is there, and lists them.

    Args:
      descriptions: with different ids.
      backend: makes the clips.
      out: folder; gets videos/, videos.json, clips/ (a record a clip, by which to resume),
        errors.json, prepared/ (the backend's, until all clips are there), model.json (which
        weights made them) and, from the world, world_truth.json, which only checks may read.
      split: for videos.json, one for all or by id.
      progress: a bar on standard error.
      ray_workers, gpus_a_worker: see `ranks.each`.

    Returns:
      The path of videos.json. It exists once every rank has made its share.

    Raises:
      UserError: `out` holds clips made with other settings or other weights, or no clip could be
        made at all.
    """
    out = pathlib.Path(out)
    for folder in ("videos", "clips"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    # Refuses other settings before anything is made.
    made = {d.id for d in descriptions if records.is_done(out, d, backend)}
    if len(made) < len(descriptions):
        records.begin(out, descriptions)
    # Ranks share all clips, or their shares would depend on who comes first. Ray is asked for what
    # is left; its workers get one item at a time, so there an item is a batch.
    size = backend.batch_size if ray_workers else 1
    ids = [d.id for d in descriptions if not ray_workers or d.id not in made]
    ranks.each(
        functools.partial(_start, backend, out.resolve(), tuple(descriptions), bool(ray_workers)),
        [ids[start : start + size] for start in range(0, len(ids), size)],
        ray_workers=ray_workers,
        gpus_a_worker=gpus_a_worker,
        label="videos",
        unit="clip" if size == 1 else f"batch of {size}",
        progress=progress,
    )
    records.finish(out, descriptions, split)
    return out / "videos.json"


def _start(
    backend: Backend, out: pathlib.Path, descriptions: Sequence[Description], under_ray: bool
) -> ranks.Work:
    """The work of one process on items that are lists of ids. Loads nothing until it has to."""
    described = {description.id: description for description in descriptions}
    prepared = False

    def unmade(ids: Sequence[str]) -> list[Description]:
        wanted = [described[str(name)] for name in ids]
        return [one for one in wanted if not records.is_done(out, one, backend)]

    def work(items: Sequence[Sequence[str]]) -> Iterator[None]:
        nonlocal prepared
        if not prepared:
            # Which items a worker of Ray will get isn't known here: it prepares for all.
            mine = [name for ids in items for name in ids]
            coming = unmade(list(described) if under_ray else mine)
            if coming and under_ray:
                _prepare_in_turn(backend, coming, out)
            elif coming:
                _prepare(backend, coming, out)
            prepared = bool(coming)
        batch, finished = [], 0
        for ids in items:
            batch += unmade(ids)
            finished += 1
            if not batch or len(batch) >= backend.batch_size:
                records.make(out, batch, backend)
                yield from [None] * finished
                batch, finished = [], 0
        records.make(out, batch, backend)
        yield from [None] * finished

    return work


def _prepare(backend: Backend, coming: Sequence[Description], out: pathlib.Path) -> None:
    """Has the backend load, and keeps to the weights that the first clips were made with."""
    path = out / "model.json"
    begun = read_json(path) if path.exists() else None
    loaded = backend.prepare(coming, out / "prepared", begun)
    if loaded and not path.exists():
        write_json(path, dict(loaded), sort_keys=True)
    elif loaded:
        identity.check(read_json(path), loaded)  # Another rank's, by now.


def _prepare_in_turn(backend: Backend, coming: Sequence[Description], out: pathlib.Path) -> None:
    """The first worker prepares for all, the others wait and find its files."""
    folder = out / "prepared"
    folder.mkdir(exist_ok=True)
    there = folder / "all"
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Dies with its process.
        if not there.exists():
            _prepare(backend, coming, out)
            there.touch()
            return
    _prepare(backend, coming, out)


def frame_size(height: int | None, width: int | None) -> tuple[int, int] | None:
    """The world's `size` of --height and --width; UserError where it can't be filmed in it."""
    if (height is None) != (width is None):
        given, other = ("height", "width") if width is None else ("width", "height")
        raise UserError(
            f"--{given}: expected --{other} beside it for the world, found none; give both or none"
        )
    if height is None:
        return None
    if height % 2 or width % 2:
        raise UserError(
            f"--height, --width: expected even numbers, as H.264 has them, found {height} and "
            f"{width}; round them"
        )
    return height, width
