"""Generate a video of each description, with the built-in world or a diffusers pipeline.

    python -m generation.videos --prompts=prompts.jsonl --backend=world --out=DIR
    python -m generation.videos --prompts=prompts.jsonl --backend=diffusers \\
        --generator=cogvideox-2b --out=DIR

This writes DIR/videos/<id>.mp4 and, once all videos are there, DIR/videos.json. If the command is
killed, run it again to continue. Ranks (RANK, WORLD_SIZE) or Ray (--ray_workers) share the work. A
video that fails is named in DIR/errors.json and does not stop the others; the same command tries it
again. The exit status is then 3, or 1 if all videos failed. --generator names a published model,
--model any other one; each of its numbers can be overridden by a flag. --first_frames starts each
video from a frame of a real video, with an image-to-video model.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence

from absl import flags

from generation.prompts.descriptions import load_descriptions
from generation.videos import like
from generation.videos.backends import Backend
from generation.videos.options import LIKE, VIDEO, DiffusersOptions
from generation.videos.world_backend import WorldBackend, frame_size
from generation.world import render
from gvvad_jax.command import UserError, check, define_flags, from_flags, group, run_command

WORLD = group("World")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Which backend generates, and where."""

    backend: str = VIDEO(
        "world",
        "Generator of the videos: the built-in world, or a diffusers model.",
        choices=("world", "diffusers"),
    )
    split: str = VIDEO(
        "train",
        "Split of all generated videos in videos.json.",
        choices=("train", "validation", "test"),
    )
    like: str = LIKE
    seed: int = VIDEO(0, "Random seed of the whole set.", low=0)
    domain: str = WORLD(
        "generated",
        "Look of the world: a text-to-video model's, or real footage's.",
        choices=render.DOMAINS,
    )
    domain_gap: float = WORLD(
        1.0, "World: distance of generated videos from footage; 0 gives footage.", low=0
    )
    defect_share: float = WORLD(
        render.DEFECT_SHARE, "Share of generated videos with a defect.", low=0, high=1
    )
    ray_workers: int = VIDEO(0, "Ray's worker processes; 0 works in this process.", low=0)
    gpus_a_worker: float | None = VIDEO(
        None, "GPUs per Ray worker (default: 1 if a model needs one and there is one).", low=0
    )

    def __post_init__(self):
        check(self)


def _make_backend(options: GenerateOptions) -> Backend:
    model = from_flags(DiffusersOptions)
    if options.like:
        model, said = like.fitted(model, options.backend, options.like)
        print(said, file=sys.stderr)
    if options.backend == "diffusers":
        # Imported here to keep --help fast.
        from generation.videos.diffusers_backend import DiffusersBackend

        return DiffusersBackend(model, options.seed)
    world = render.WorldOptions(
        domain=options.domain,
        seed=options.seed,
        domain_gap=options.domain_gap,
        num_frames=model.num_frames,
        fps=model.fps,
        size=frame_size(model.height, model.width),
    )
    return WorldBackend(world, options.defect_share)


def _gpus_a_worker(options: GenerateOptions) -> float:
    if options.gpus_a_worker is not None:
        return options.gpus_a_worker
    if options.backend == "world" or not options.ray_workers:
        return 0.0
    import torch

    return float(torch.cuda.is_available())


def main(_: Sequence[str]) -> None:
    from generation.videos import generating, records

    if not _PROMPTS.value or not _OUT.value:
        raise UserError(
            "--prompts, --out: expected both a prompts.jsonl and a folder; write the former "
            "with gvvad prompts"
        )
    options = from_flags(GenerateOptions)
    descriptions = load_descriptions(_PROMPTS.value)
    path = generating.generate(
        descriptions,
        _make_backend(options),
        _OUT.value,
        split=options.split,
        ray_workers=options.ray_workers,
        gpus_a_worker=_gpus_a_worker(options),
    )
    errors = records.errors(path.parent, descriptions)
    print(json.dumps({"videos": str(path), "complete": path.exists(), "errors": errors}))
    if errors:
        print(
            f"{path.parent}: {len(errors)} of {len(descriptions)} videos failed, the others are "
            "there; the same command tries them again",
            file=sys.stderr,
        )
        sys.exit(3)


if __name__ == "__main__":
    # Required, so they have no default.
    _PROMPTS = flags.DEFINE_string("prompts", None, "Descriptions, by gvvad prompts. Required.")
    _OUT = flags.DEFINE_string(
        "out", None, "Folder to write; the same command resumes it. Required."
    )
    define_flags(GenerateOptions, DiffusersOptions)
    run_command(main, usage=__doc__)
