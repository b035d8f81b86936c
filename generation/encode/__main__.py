"""Encode videos into a feature store.

    python -m generation.encode --videos=videos.json --encoder=motion --out=STORE
    python -m generation.encode --videos=videos.json --encoder=clip-l14 --crops=ten \\
        --pooling=middle --captioner=git --text_encoder=simcse --out=STORE
    python -m generation.encode ... --workers=8              # eight videos at a time
    RANK=1 WORLD_SIZE=2 python -m generation.encode ...      # one of several ranks

Each video is read, resampled by --fps_policy, cut into snippets and encoded. The store also gets a
text row per snippet, made from its caption, and the measures that the filter judges. Decoding runs
ahead of the models, and a video is never in memory as a whole. If the command is killed, run it
again: finished videos are kept and the rows are the same. A video is encoded again if its file, its
description or its source has changed. A video that cannot be encoded doesn't stop the others: it is
named at the end with the reason, and the exit status is 3, or 1 if no video is left. Videos that
can be read only in part are named too.

--dry_run writes nothing: it reads the headers, encodes a few seconds of a few videos, and prints
how many hours, gigabytes and failures to expect; its exit status is the one to expect.
"""

import dataclasses
import json
import os
import sys
from typing import Any

from generation.encode.recipe import EncodeOptions
from generation.encoders.options import VisualOptions
from generation.ranks import WorkerOptions
from gvvad_jax.command import UserError, define_flags, from_flags, group, run_command
from gvvad_jax.store.reader import Store

DATA = group("Data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeFiles:
    """The files that the command reads and writes."""

    videos: str = DATA("", "List of videos, a videos.json. Required.")
    out: str = DATA("", "Folder of the store. Required.")
    prompts: str = DATA("", "Descriptions of generated videos, a prompts.jsonl (default: none).")
    dry_run: bool = DATA(
        False, "Print the time, the size and the failures to expect, and write nothing."
    )


def main(_) -> None:
    from generation.encode import encoding  # Ray sends its functions by the module's name.

    files, options, workers = map(from_flags, (EncodeFiles, EncodeOptions, WorkerOptions))
    if not files.videos or not files.out:
        missing = "--videos" if not files.videos else "--out"
        raise UserError(f"{missing}: expected a path, found none; give both --videos and --out")
    # PyTorch's threads share the cores with the decoder, so they must not spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if files.dry_run:
        _plan(files, options, workers)
        return
    spent: dict[str, Any] = {}
    finished = encoding.encode(
        files.videos,
        files.out,
        options,
        prompts_path=files.prompts or None,
        workers=workers.num_workers,
        ray_workers=workers.ray_workers,
        gpus_a_worker=workers.gpus_per_worker(needs_gpu=options.needs_torch),
        spent=spent,
    )
    summary = {"out": files.out, "finished": finished} | spent
    if not finished:
        print(json.dumps(summary))
        return
    store = Store(files.out)
    print(json.dumps(summary | store.summary()))
    if failed := len(store.quarantined):
        print(
            f"{files.out}: {failed} of {failed + len(store.rows)} videos could not be encoded, the "
            "others are there; the reasons stand above",
            file=sys.stderr,
        )
        sys.exit(3)


def _plan(files: EncodeFiles, options: EncodeOptions, workers: WorkerOptions) -> None:
    from generation.encode import planning

    planned = planning.plan(
        files.videos,
        files.out,
        options,
        prompts_path=files.prompts or None,
        workers=workers.ray_workers or workers.num_workers,
    )
    print(planning.report(planned), file=sys.stderr)
    print(json.dumps(planned))
    if planned["failures"]:
        sys.exit(3 if len(planned["failures"]) < planned["videos"] else 1)


if __name__ == "__main__":
    # The order of the classes is the order of the titles in --help.
    define_flags(EncodeFiles, VisualOptions, EncodeOptions, WorkerOptions)
    run_command(main, usage=__doc__)
