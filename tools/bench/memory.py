"""Measures the peak memory of scoring one video by each detector against the video's length.

Each measurement is a process of its own. Its peak before scoring, with the modules and the weights
in memory, is subtracted.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.bench.sparse_store import DIM, TEXT_DIM
from tools.bench.workers import peak_bytes

LENGTHS = (1000, 4000, 16000)


def detectors(
    names: Sequence[str], lengths: Sequence[int] = LENGTHS, crops: int = 1
) -> dict[str, dict[str, float]]:
    """Returns megabytes of memory by detector and number of snippets."""
    return {
        name: {str(length): _in_a_process(name, length, crops) for length in lengths}
        for name in names
    }


def _in_a_process(name: str, length: int, crops: int) -> float:
    command = [sys.executable, "-m", "tools.bench.memory", json.dumps([name, length, crops])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def megabytes(name: str, length: int, crops: int) -> float:
    """Scores one random video in this process; returns by how many megabytes its peak rises."""
    import jax

    from gvvad_jax import step
    from gvvad_jax.config import TrainConfig

    config = TrainConfig(detector=name)
    score, variables = step.make_score_step(config), _variables(config)

    def arguments(length: int) -> tuple[Any, Any, None]:
        rng = np.random.default_rng(0)
        visual = rng.standard_normal((1, crops, length, DIM), np.float32)
        text = rng.standard_normal((1, length, TEXT_DIM), np.float32) if config.uses_text else None
        return visual, text, None

    # A short video first, so that what is allocated once doesn't count.
    jax.block_until_ready(score(variables, *arguments(8)))
    before = peak_bytes()
    jax.block_until_ready(score(variables, *arguments(length)))
    return (peak_bytes() - before) / 1e6


def _variables(config: Any) -> Any:
    from gvvad_jax import step

    return step.scoring_variables(step.init_state(config, DIM, TEXT_DIM))


if __name__ == "__main__":
    print(megabytes(*json.loads(sys.argv[1])))
