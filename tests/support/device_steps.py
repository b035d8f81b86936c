"""Twenty steps of every detector in some modes, in a process of its own, for devices_test.py.

    python -m tests.support.device_steps PRECISION OUT.npz [CONFIG...]

Fake devices by XLA_FLAGS; several processes by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

import dataclasses
import os
import sys

import chex
import jax
import numpy as np

from gvvad_jax import parallel, step
from gvvad_jax.batches import Batch
from gvvad_jax.config import DETECTORS, TrainConfig

SMALL = {"head_widths": (16, 8), "mtn_channels": 4, "body_width": 8, "memory_rows": 20}
VIDEOS, PAIRS, SEGMENTS, DIM, TEXT_DIM, STEPS = 19, 8, 6, 12, 8, 20
SYNTHETIC = np.arange(VIDEOS) % 4 > 1
OPTIONS = {"lambda_mode": "meta", "mixup": 0.5, "train_crops": 1, "ema": 0.9, "clip_norm": 1.0}
OPTIONS |= {"conflicts": "project"}


def configs(precision):
    common = {"batch_size": PAIRS, "segments": SEGMENTS, "precision": precision, **SMALL}
    every = {name: TrainConfig(detector=name, **common) for name in DETECTORS}
    return every | {
        "options": TrainConfig(detector="mil_rank", **common, **OPTIONS),
        # Windows of three snippets, too: two sequences a video where others are one.
        "domains": TrainConfig(detector="lap", **common, batch_norm="per_domain", causal_window=3),
    }


def data(runner):
    """Returns the same videos in every mode; checks that a process reads only its own rows."""
    rng = np.random.default_rng(0)
    visual = rng.normal(size=(VIDEOS, 2, SEGMENTS, DIM)).astype(np.float32)
    text = rng.normal(size=(VIDEOS, SEGMENTS, TEXT_DIM)).astype(np.float32)
    asked = set()

    def rows(array):
        def read_rows(start, stop):
            asked.update(range(start, stop))
            return array[start:stop]

        return runner.by_row(array.shape, read_rows)

    videos = step.TrainingData(
        visual_VxNxTxD=rows(visual),
        text_VxTxE=rows(text),
        synthetic_V=rows(np.float32(SYNTHETIC)),
        bank_KxE=runner.on_each(np.eye(3, TEXT_DIM, dtype=np.float32)),
    )
    if runner.num_devices > 1:
        most = -(-VIDEOS // runner.num_devices) * jax.local_device_count()
        assert len(asked) <= most, "a process read another's rows"
    return videos


def batch(number, config):
    rng = np.random.default_rng(number)

    def videos():
        return rng.integers(0, VIDEOS, (PAIRS, 2)).astype(np.int32)

    def of_domain():
        """Draws real videos alone, one generated one beside them, both, or generated ones alone."""
        real, generated = np.flatnonzero(~SYNTHETIC), np.flatnonzero(SYNTHETIC)
        pools = (real, real, np.arange(VIDEOS), generated)
        drawn_Bx2 = rng.choice(pools[number % 4], (PAIRS, 2)).astype(np.int32)
        if number % 4 == 1:
            drawn_Bx2[-1, 1] = generated[0]
        return drawn_Bx2

    if config.batch_norm == "per_domain":
        return Batch(videos_Bx2=of_domain(), pairs_B=np.arange(PAIRS, dtype=np.int32))
    drawn = Batch(videos_Bx2=videos(), pairs_B=np.arange(PAIRS, dtype=np.int32))
    if config.mixup:
        shares_Bx2 = rng.uniform(0.5, 1, (PAIRS, 2)).astype(np.float32)
        drawn = drawn._replace(partners_Bx2=videos(), shares_Bx2=shares_Bx2, held_out_Bx2=videos())
    return drawn


def run(config):
    """Runs the steps; returns the state and the last metrics by name."""
    make = parallel.make_train_step
    chex.clear_trace_counter()
    parallel.make_train_step = lambda *args, **kwargs: chex.assert_max_traces(
        make(*args, **kwargs), n=1
    )
    runner = parallel.Runner(config, step.init_state(config, DIM, TEXT_DIM))
    parallel.make_train_step = make
    videos = data(runner)
    for number in range(STEPS):
        metrics = jax.device_get(runner.step(videos, batch(number, config)))
    state = runner.state().replace(opt_state={}, key=())
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return arrays | {f"metric {name}": value for name, value in metrics.items()}


def main(precision, out, *names):
    jax.config.update("jax_platforms", "cpu")
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    processes = "ranks" if "RANK" in os.environ else "one"
    parallel.join(TrainConfig(parallel="mesh", processes=processes))
    arrays = {}
    every = configs(precision)
    for name in names or every:
        for mode in ("single", "pmap", "mesh"):
            values = run(dataclasses.replace(every[name], parallel=mode))
            arrays |= {f"{mode}/{name}/{key}": value for key, value in values.items()}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
