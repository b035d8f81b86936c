"""Videos -> feature store.

    python -m generation.encode --videos=videos.json --encoder=motion --out=STORE
    python -m generation.encode --videos=videos.json --encoder=clip-l14 --crops=ten \\
        --pooling=middle --captioner=git --text_encoder=simcse --out=STORE
    RANK=1 WORLD_SIZE=2 python -m generation.encode ...          # one of several ranks

Each video is read, resampled by the fps policy, cut into snippets and encoded; beside its features
go a caption's text row a snippet and the measures that the filter judges. Decoding runs ahead of
the models, and where they look at single snippets, a video is never in memory as a whole. A video
is the unit of resuming: killed anywhere, the same command goes on and ends with the same rows.
A video whose file, prompt record or source is another than its row was made of is encoded again.
Videos that can't be read, or only in part, are named at the end and never silently absent.
"""

import json
import os
from typing import Any

from absl import flags

from generation.encode.recipe import EncodeOptions
from gvvad_jax.command import UserError, define_flags, from_flags, run_command
from gvvad_jax.store.reader import Store


def _gpus_a_worker(chosen: EncodeOptions) -> float:
    if _GPUS_A_WORKER.value is not None or not _RAY_WORKERS.value or not chosen.needs_torch:
        return _GPUS_A_WORKER.value or 0
    import torch

    return float(torch.cuda.is_available())


def main(_) -> None:
    from generation.encode import encoding  # Not __main__'s: Ray sends its work by its name.

    if not _VIDEOS.value or not _OUT.value:
        raise UserError("--videos, --out: expected a videos.json and a folder, found none of one")
    # PyTorch's threads share the cores with the decoder: while they wait, they mustn't spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    chosen = from_flags(EncodeOptions)
    spent: dict[str, Any] = {}
    finished = encoding.encode(
        _VIDEOS.value,
        _OUT.value,
        chosen,
        prompts_path=_PROMPTS.value or None,
        ray_workers=_RAY_WORKERS.value,
        gpus_a_worker=_gpus_a_worker(chosen),
        spent=spent,
    )
    summary = {"out": _OUT.value, "finished": finished} | spent
    print(json.dumps(summary | (Store(_OUT.value).summary() if finished else {})))


if __name__ == "__main__":
    _VIDEOS = flags.DEFINE_string("videos", None, "The videos.json to encode.")
    _OUT = flags.DEFINE_string("out", None, "Folder of the store.")
    _PROMPTS = flags.DEFINE_string("prompts", None, "prompts.jsonl of generated videos.")
    define_flags(EncodeOptions)
    _RAY_WORKERS = flags.DEFINE_integer("ray_workers", 0, "Ray's processes; 0: none.", 0)
    _GPUS_A_WORKER = flags.DEFINE_float(
        "gpus_a_worker", None, "GPUs that Ray gives each; 1 where there is one here unless told.", 0
    )
    run_command(main, usage=__doc__)
