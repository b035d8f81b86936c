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

import json

from absl import flags

from generation.prompts.descriptions import load_descriptions
from generation.videos.backends import Backend
from generation.videos.generating import frame_size
from generation.videos.world_backend import WorldBackend
from generation.world import render
from gvvad_jax.command import UserError, define_flags, from_flags, run_command
from gvvad_jax.store.files import read_json


def _backend() -> Backend:
    """The backend that the flags ask for."""
    asked = from_flags(diffusers_backend.DiffusersOptions)
    if _BACKEND.value == "diffusers":
        return asked.backend(_SEED.value)

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
    from generation.videos import (
        generating,  # Not __main__'s `generate`: Ray sends its work by its name.
    )

    if not _PROMPTS.value or not _OUT.value:
        raise UserError(
            "--prompts, --out: expected both a prompts.jsonl and a folder; write the former "
            "with python -m generation.prompts"
        )
    path = generating.generate(
        load_descriptions(_PROMPTS.value),
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
    from generation.videos import diffusers_backend

    _PROMPTS = flags.DEFINE_string("prompts", None, "Descriptions, from generation.prompts.")
    _BACKEND = flags.DEFINE_enum("backend", "world", ["world", "diffusers"], "Who makes clips.")
    _OUT = flags.DEFINE_string("out", None, "Folder to write.")
    _SPLIT = flags.DEFINE_enum(
        "split", "train", ["train", "validation", "test"], "Split of all clips in videos.json."
    )
    _SEED = flags.DEFINE_integer("seed", 0, "Of the whole set.", lower_bound=0)
    _DOMAIN = flags.DEFINE_enum("domain", "generated", render.DOMAINS, "world: which look.")
    _DOMAIN_GAP = flags.DEFINE_float("domain_gap", 1.0, "world: 0 is footage.", lower_bound=0)
    _DEFECT_SHARE = flags.DEFINE_float(
        "defect_share", render.DEFECT_SHARE, "world: share of broken clips.", 0, 1
    )
    define_flags(diffusers_backend.DiffusersOptions)
    _RAY_WORKERS = flags.DEFINE_integer("ray_workers", 0, "Ray's processes; 0: none.", 0)
    _GPUS_A_WORKER = flags.DEFINE_float(
        "gpus_a_worker", None, "GPUs that Ray gives each; diffusers: 1 where there is one here.", 0
    )
    run_command(main, usage=__doc__)
