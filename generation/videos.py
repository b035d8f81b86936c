"""Descriptions -> videos, with the built-in world or any diffusers text-to-video pipeline.

    python -m generation.videos --prompts=prompts.jsonl --backend=world --out=DIR
    python -m generation.videos --prompts=prompts.jsonl --backend=diffusers \\
        --generator=cogvideox-2b --out=DIR

writes DIR/videos/<id>.mp4 and, when all are there, DIR/videos.json. Killed anywhere, the same
command goes on where it stopped. Ranks (RANK, WORLD_SIZE) share the work, or Ray (--ray_workers).
A clip whose generation fails is named in DIR/errors.json, the others go on, and the same command
tries it again. --generator names a published model, --model any other; each of its numbers can be
given as a flag. --first_frames starts each clip from a real video's picture, with an
image-to-video model.
"""

import dataclasses
import fcntl
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from generation import clip_records, model_identity, prompts, ranks, world
from generation.clips import Backend, Clip
from generation.prompts import Description
from gvvad_jax import options
from gvvad_jax.annotations import read_json
from gvvad_jax.store import UserError, run_command


class WorldBackend:
    """The built-in renderer; see generation/world.py.

    Args:
      domain: footage or generated.
      seed: of the whole set.
      domain_gap: of generated clips, 0 looks like footage.
      defect_share: of generated clips that are broken; footage never is.
      num_frames, fps, size: the domain's unless told.
    """

    batch_size = 1

    def __init__(
        self,
        domain: str = "generated",
        *,
        seed: int = 0,
        domain_gap: float = 1.0,
        defect_share: float = world.DEFECT_SHARE,
        num_frames: int | None = None,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
    ):
        self.defect_share = defect_share if domain == "generated" else 0.0
        self.options = {
            "domain": domain,
            "seed": seed,
            "domain_gap": domain_gap,
            "num_frames": num_frames,
            "fps": fps,
            "size": size,
        }
        self.settings = self.options | {
            "backend": "world",
            "world_version": world.WORLD_VERSION,
            "defect_share": self.defect_share,
        }

    def prepare(
        self,
        descriptions: Sequence[Description],
        folder: pathlib.Path,
        begun: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        return {}

    def __call__(self, descriptions: Sequence[Description]) -> list[Clip | Exception]:
        return [self._render(description) for description in descriptions]

    def _render(self, description: Description) -> Clip:
        seed = self.options["seed"]
        defect = world.draw_defect(description, seed, self.defect_share)
        rendering = world.render(description, defect=defect, **self.options)
        footage = self.options["domain"] == "footage"
        truth = {"defect": rendering.defect, "shown_frames": rendering.abnormal_frames}
        return Clip(
            rendering.frames_TxHxWx3,
            rendering.fps,
            world.CRF[self.options["domain"]],
            # A generator doesn't tell when its event happens: that is for the truth file.
            rendering.abnormal_frames if footage else None,
            truth,
        )


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
    made = {d.id for d in descriptions if clip_records.is_done(out, d, backend)}
    if len(made) < len(descriptions):
        clip_records.begin(out, descriptions)
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
    clip_records.finish(out, descriptions, split)
    return out / "videos.json"


def _start(
    backend: Backend, out: pathlib.Path, descriptions: Sequence[Description], under_ray: bool
) -> ranks.Work:
    """The work of one process on items that are lists of ids. Loads nothing until it has to."""
    described = {description.id: description for description in descriptions}
    prepared = False

    def unmade(ids: Sequence[str]) -> list[Description]:
        wanted = [described[str(name)] for name in ids]
        return [one for one in wanted if not clip_records.is_done(out, one, backend)]

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
                clip_records.make(out, batch, backend)
                yield from [None] * finished
                batch, finished = [], 0
        clip_records.make(out, batch, backend)
        yield from [None] * finished

    return work


def _prepare(backend: Backend, coming: Sequence[Description], out: pathlib.Path) -> None:
    """Has the backend load, and keeps to the weights that the first clips were made with."""
    path = out / "model.json"
    begun = read_json(path) if path.exists() else None
    loaded = backend.prepare(coming, out / "prepared", begun)
    if loaded and not path.exists():
        clip_records.write_json(path, dict(loaded))
    elif loaded:
        model_identity.check(read_json(path), loaded)  # Another rank's, by now.


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


def render_footage(
    out: str | os.PathLike,
    num_train_pairs: int,
    num_test_pairs: int,
    seed: int,
    *,
    progress: bool = True,
) -> pathlib.Path:
    """The world's stand-in for real data: twins of footage with splits and exact intervals.

    Classes take turns, so both splits hold them evenly; no place is in both.

    Args:
      out: folder, as for `generate`.
      num_train_pairs, num_test_pairs: pairs of a normal and an abnormal video.
      seed: of everything.
      progress: a bar on standard error.

    Returns:
      The path of videos.json.
    """
    twins = prompts.write_grammar(num_train_pairs + num_test_pairs, seed)
    descriptions = [
        dataclasses.replace(twin, id=f"footage-{twin.id}", twin=f"footage-{twin.twin}")
        for twin in twins
    ]
    split = {
        description.id: "train" if index < 2 * num_train_pairs else "test"
        for index, description in enumerate(descriptions)
    }
    backend = WorldBackend("footage", seed=seed)
    return generate(descriptions, backend, out, split=split, progress=progress)


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


def _backend() -> Backend:
    """The backend that the flags ask for."""
    asked = options.from_flags(diffusers_backend.Options)
    if _BACKEND.value == "diffusers":
        return asked.backend(_SEED.value)
    from generation.videos import WorldBackend  # Not __main__'s: Ray sends it by its name.

    return WorldBackend(
        _DOMAIN.value,
        seed=_SEED.value,
        domain_gap=_DOMAIN_GAP.value,
        defect_share=_DEFECT_SHARE.value,
        num_frames=asked.num_frames,
        fps=asked.fps,
        size=frame_size(asked.height, asked.width),
    )


def _gpus_a_worker() -> float:
    if _GPUS_A_WORKER.value is not None or _BACKEND.value == "world" or not _RAY_WORKERS.value:
        return _GPUS_A_WORKER.value or 0
    import torch

    return float(torch.cuda.is_available())


def main(_) -> None:
    from generation import videos  # Not __main__'s `generate`: Ray sends its work by its name.

    if not _PROMPTS.value or not _OUT.value:
        raise UserError(
            "--prompts, --out: expected both a prompts.jsonl and a folder; write the former "
            "with python -m generation.prompts"
        )
    path = videos.generate(
        prompts.load(_PROMPTS.value),
        _backend(),
        _OUT.value,
        split=_SPLIT.value,
        ray_workers=_RAY_WORKERS.value,
        gpus_a_worker=_gpus_a_worker(),
    )
    errors = path.with_name("errors.json")
    summary = {"videos": str(path), "complete": path.exists()}
    if errors.exists():
        summary["errors"] = read_json(errors)
    print(json.dumps(summary))


if __name__ == "__main__":
    from generation import diffusers_backend

    _PROMPTS = flags.DEFINE_string("prompts", None, "Descriptions, from generation.prompts.")
    _BACKEND = flags.DEFINE_enum("backend", "world", ["world", "diffusers"], "Who makes clips.")
    _OUT = flags.DEFINE_string("out", None, "Folder to write.")
    _SPLIT = flags.DEFINE_enum(
        "split", "train", ["train", "validation", "test"], "Split of all clips in videos.json."
    )
    _SEED = flags.DEFINE_integer("seed", 0, "Of the whole set.", lower_bound=0)
    _DOMAIN = flags.DEFINE_enum("domain", "generated", world.DOMAINS, "world: which look.")
    _DOMAIN_GAP = flags.DEFINE_float("domain_gap", 1.0, "world: 0 is footage.", lower_bound=0)
    _DEFECT_SHARE = flags.DEFINE_float(
        "defect_share", world.DEFECT_SHARE, "world: share of broken clips.", 0, 1
    )
    options.define_flags(diffusers_backend.Options)
    _RAY_WORKERS = flags.DEFINE_integer("ray_workers", 0, "Ray's processes; 0: none.", 0)
    _GPUS_A_WORKER = flags.DEFINE_float(
        "gpus_a_worker", None, "GPUs that Ray gives each; diffusers: 1 where there is one here.", 0
    )
    run_command(main, usage=__doc__)
