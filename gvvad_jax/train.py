"""Trains a detector on real and generated videos that carry video-level labels only.

    python -m gvvad_jax.train --flagfile=configs/ucf_crime.flags --store=REAL \\
        --synthetic_store=SYN --synthetic_keep=decisions.jsonl --workdir=W

Killed at any moment, the same command resumes and ends with the same numbers. The run's folder
gets begun.json, config.flags, model.json, metrics.jsonl, TensorBoard events, checkpoints/ and
result.json.
"""

import json
from collections.abc import Sequence

from gvvad_jax.command import define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig
from gvvad_jax.training import train


def main(_: Sequence[str]) -> None:
    result = train(from_flags(TrainConfig))
    if result:  # The first of several processes has it.
        print(json.dumps(result))


if __name__ == "__main__":
    define_flags(TrainConfig)
    run_command(main, usage=__doc__)
