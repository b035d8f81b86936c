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
import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from generation import prompts, ranks, video_io, world
from generation.clips import Backend, Clip
from generation.prompts import Description
from gvvad_jax import options
from gvvad_jax.annotations import read_json
from gvvad_jax.store import UserError, run_command, write_atomically


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

    def prepare(self, descriptions: Sequence[Description], folder: pathlib.Path) -> None:
        pass

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
        errors.json, prepared/ (the backend's, until all clips are there) and, from the world,
        world_truth.json, which only checks may read.
      split: for videos.json, one for all or by id.
      progress: a bar on standard error.
      ray_workers, gpus_a_worker: see `ranks.each`.

    Returns:
      The path of videos.json. It exists once every rank has made its share.

    Raises:
      UserError: `out` holds clips made with other settings, or no clip could be made at all.
    """
    out = pathlib.Path(out)
    for folder in ("videos", "clips"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    # Refuses other settings before anything is made.
    made = {d.id for d in descriptions if _is_done(out, d, backend)}
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
    _finish(out, descriptions, split)
    return out / "videos.json"


def _start(
    backend: Backend, out: pathlib.Path, descriptions: Sequence[Description], under_ray: bool
) -> ranks.Work:
    """The work of one process on items that are lists of ids. Loads nothing until it has to."""
    described = {description.id: description for description in descriptions}
    prepared = False

    def unmade(ids: Sequence[str]) -> list[Description]:
        wanted = [described[str(name)] for name in ids]
        return [description for description in wanted if not _is_done(out, description, backend)]

    def work(items: Sequence[Sequence[str]]) -> Iterator[None]:
        nonlocal prepared
        if not prepared:
            # Which items a worker of Ray will get isn't known here: it prepares for all.
            mine = [name for ids in items for name in ids]
            coming = unmade(list(described) if under_ray else mine)
            if coming:
                backend.prepare(coming, out / "prepared")
            prepared = bool(coming)
        batch, finished = [], 0
        for ids in items:
            batch += unmade(ids)
            finished += 1
            if not batch or len(batch) >= backend.batch_size:
                _make(out, batch, backend)
                yield from [None] * finished
                batch, finished = [], 0
        _make(out, batch, backend)
        yield from [None] * finished

    return work


def _fingerprint(description: Description, backend: Backend) -> str:
    content = json.dumps([description.to_json(), dict(backend.settings)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _is_done(out: pathlib.Path, description: Description, backend: Backend) -> bool:
    record_path = out / "clips" / f"{description.id}.json"
    if not record_path.exists():
        return False
    record = read_json(record_path)
    if record["fingerprint"] != _fingerprint(description, backend):
        raise UserError(
            f"{out}: expected {description.id!r} to be made with these settings, found another "
            "making; give another --out or remove the folder"
        )
    return record["error"] is None and (out / "videos" / f"{description.id}.mp4").exists()


def _make(out: pathlib.Path, batch: Sequence[Description], backend: Backend) -> None:
    if not batch:
        return
    try:
        outcomes = backend(batch)
    except Exception as error:  # whatever a model throws, the other clips go on
        outcomes = [error] * len(batch)
    for description, outcome in zip(batch, outcomes, strict=True):
        _record(out, description, outcome, _fingerprint(description, backend))


def _record(
    out: pathlib.Path, description: Description, outcome: Clip | Exception, fingerprint: str
) -> None:
    """One clip and its record; the record comes last, so that a clip without one is made again."""
    record = {
        "fingerprint": fingerprint,
        "error": None,
        "label": description.label,
        "class": description.cls if description.label else "Normal",
        "seed": description.seed,
    }
    try:
        if isinstance(outcome, Exception):
            raise outcome
        path = out / "videos" / f"{description.id}.mp4"
        video_io.write(path, outcome.frames_TxHxWx3, fps=outcome.fps, crf=outcome.crf)
        record |= {
            "num_frames": len(outcome.frames_TxHxWx3),
            "fps": outcome.fps,
            "abnormal_frames": outcome.abnormal_frames,
            "truth": dict(outcome.truth),
            "made": dict(outcome.facts),
        }
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {error}"
        print(f"{description.id}: {record['error']}", file=sys.stderr)
    write_atomically(out / "clips" / f"{description.id}.json", _json(record))


def _finish(out: pathlib.Path, descriptions: Sequence[Description], split) -> None:
    """Writes videos.json once all clips have their records; any rank may be the last."""
    paths = {name: out / "clips" / f"{name}.json" for name in (d.id for d in descriptions)}
    if not all(path.exists() for path in paths.values()):
        return
    records = {name: read_json(path) for name, path in paths.items()}
    errors = {name: record["error"] for name, record in records.items() if record["error"]}
    write_atomically(out / "errors.json", _json(errors))
    if len(errors) == len(records):
        name, error = next(iter(errors.items()))
        raise UserError(f"{out}: expected clips, all of them failed; {name!r} with {error}")
    videos, truth = {}, {}
    for name, record in records.items():
        if name in errors:
            continue
        videos[name] = {
            "file": f"videos/{name}.mp4",
            "split": split if isinstance(split, str) else split[name],
            **{key: record[key] for key in ("label", "class", "fps", "num_frames")},
        }
        if record["abnormal_frames"] is not None:
            videos[name]["abnormal_frames"] = record["abnormal_frames"]
        if record["truth"]:
            truth[name] = record["truth"]
    if truth:
        write_atomically(out / "world_truth.json", _json(truth))
    write_atomically(out / "videos.json", _json({"videos": videos}))
    if not errors:  # Nobody is making anything any more: what kills left behind can go.
        shutil.rmtree(out / "prepared", ignore_errors=True)
        for partial in out.glob("*/.*.partial*"):
            partial.unlink(missing_ok=True)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


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
        size=(asked.height, asked.width) if asked.height and asked.width else None,
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
