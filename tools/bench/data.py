"""What the data path costs compared with a training step, and how memory grows with the data."""

import pathlib
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.bench import sparse_store
from tools.bench.sparse_store import CROPS, DIM, TEXT_DIM
from tools.bench.step import Case, JaxStep
from tools.bench.workers import seconds_of

if TYPE_CHECKING:
    from gvvad_jax.splits import Member

# Number of batches that mapped files hold, so that a batch isn't in the processor's cache.
MAPPED_BATCHES = 4


def measure(folder: pathlib.Path, segments: int, pairs: int, repeats: int) -> dict[str, Any]:
    """Times opening, segmenting and gathering; shares are relative to a LAP step of the same run.

    Args:
      folder: empty folder on the disk to be measured.
      segments: segments of a video.
      pairs: pairs of videos in a batch.
      repeats: number of timings, of which the median counts.
    """
    from gvvad_jax.segments import Segments
    from gvvad_jax.splits import members_of
    from gvvad_jax.standardisation import Standards
    from gvvad_jax.store.reader import Store

    ucf = sparse_store.write(folder / "ucf", sparse_store.UCF_CRIME_VIDEOS)
    opened = Store(ucf)
    members = members_of(opened, None)[: MAPPED_BATCHES * 2 * pairs]
    step = JaxStep(Case("lap", segments, pairs))
    step()
    step_seconds = statistics.median(seconds_of(step) for _ in range(repeats))
    standard = Standards()
    one = [seconds_of(lambda: Segments(members, standard, step.config).rows("visual", [0]))
           for _ in range(repeats)]  # fmt: skip
    return {
        "open_seconds": min(seconds_of(lambda: Store(ucf)) for _ in range(3)),
        "segment_seconds_a_video": statistics.median(one),
        "step_seconds": step_seconds,
        "resident": _resident(step, step_seconds, repeats),
        "mapped": _mapped(members, folder / "kept", step, step_seconds, repeats),
    }


def _resident(step: JaxStep, step_seconds: float, repeats: int) -> dict[str, float]:
    """Times the gather of the step alone."""
    import jax

    from gvvad_jax.step import take

    places_V = step.batch.videos_Bx2.reshape(-1)
    gather = jax.jit(lambda data, videos_V: take(data, videos_V))

    def run() -> None:
        jax.block_until_ready(gather(step.data, places_V))

    run()
    seconds = statistics.median(seconds_of(run) for _ in range(3 * repeats))
    return {"gather_seconds": seconds, "share_of_step": seconds / step_seconds}


def _mapped(
    members: "list[Member]", folder: pathlib.Path, step: JaxStep, step_seconds: float, repeats: int
) -> dict[str, float]:
    """Times batches gathered from files a step ahead: the loop's waiting, the thread's work."""
    from gvvad_jax import batches
    from gvvad_jax.segments import Ahead, Fixed, Segments
    from gvvad_jax.standardisation import Standards

    segments = Segments(members, Standards(), step.config, folder)
    rng = np.random.default_rng(0)
    for (
        kind,
        kept,
    ) in segments._kept.items():  # As after the first pass, when all videos are segmented.
        if kind == "done":
            kept[:] = 1
        else:
            for row in kept:
                row[:] = rng.standard_normal(row.shape, np.float32)
            kept.flush()
    labels_V = np.array([member.video.label for member in members])
    synthetic_V = np.zeros(len(members), bool)
    drawn = batches.Batches(labels_V, synthetic_V, step.config)
    fixed = Fixed(synthetic_V=synthetic_V, bank_KxE=np.ones((60, TEXT_DIM), np.float32))
    feed = Ahead(segments, fixed, drawn, step.runner)
    import jax

    waits, work = [], []
    for number in range(repeats + 1):
        start = time.perf_counter()
        data, batch = feed.at(number)
        waits.append(time.perf_counter() - start)
        jax.block_until_ready(step.runner.step(data, batch))
    for number in range(repeats):
        work.append(seconds_of(lambda n=number: jax.block_until_ready(feed._gather(1000 + n)[0])))
    feed.close()
    waited, worked = statistics.median(waits[1:]), statistics.median(work)
    return {
        "wait_seconds": waited,
        "thread_seconds": worked,
        "share_of_step": waited / step_seconds,
        "thread_share_of_step": worked / step_seconds,
    }


# Trains as the command does, then prints the memory it took.
TRAIN = """
import runpy
from tools.bench.workers import peak_bytes
runpy.run_module("gvvad_jax.train", run_name="__main__")
print(peak_bytes())
"""


def training_peak(*flags: str) -> int:
    """Runs a training process and returns its peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"training with {flags} ended with {done.returncode}: {done.stderr}")
    return int(done.stdout.splitlines()[-1])


def memory(folder: pathlib.Path) -> dict[str, Any]:
    """Peak memory of training MIL-Rank from mapped files, on UCF-Crime's size and 100 times it.

    The index is real; the features are zeros in sparse files.
    """
    a_video = sparse_store.UCF_CRIME_SNIPPETS * 4 * (CROPS * DIM + TEXT_DIM)
    sizes: dict[str, Any] = {}
    for times in (1, 100):
        videos = times * sparse_store.UCF_CRIME_VIDEOS
        path = sparse_store.write(folder / f"x{times}", videos)
        flags = [f"--store={path}", f"--workdir={folder / f'w{times}'}", "--detector=mil_rank"]
        flags += ["--steps=6", "--validation_share=0", "--device_gigabytes=0", "--segments=32"]
        peak = training_peak(*flags)
        sizes[f"x{times}"] = {
            "videos": videos, "feature_bytes": videos * a_video, "peak_bytes": peak
        }  # fmt: skip
    more = sizes["x100"]["peak_bytes"] - sizes["x1"]["peak_bytes"]
    videos = sizes["x100"]["videos"] - sizes["x1"]["videos"]
    return sizes | {"more_bytes_a_video": more / videos}
