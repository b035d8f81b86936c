"""Trains a detector on real and generated videos that carry video-level labels only.

    python -m gvvad_jax.train --flagfile=configs/ucf_crime.flags --store=REAL \\
        --synthetic_store=SYN --synthetic_keep=decisions.jsonl --workdir=W

The same command resumes a run that was stopped at any moment, and ends with the same numbers. The
run's folder gets begun.json, config.flags, model.json, metrics.jsonl, TensorBoard events,
checkpoints/ and result.json. Prints result.json.
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gvvad_jax.command import define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig

if TYPE_CHECKING:
    from gvvad_jax.training import Result


def main(_: Sequence[str]) -> None:
    config = from_flags(TrainConfig)
    # After the check of the flags, so that a mistake in them is reported at once.
    import jax

    from gvvad_jax.training import fit

    result = fit(config)
    if jax.process_index():
        return  # The first of several processes reports.
    print(json.dumps(result.to_json()))
    if sys.stderr.isatty():
        print(summary(result, config), file=sys.stderr)


def summary(result: "Result", config: TrainConfig) -> str:
    """Results, their place and the next commands, for people."""
    from gvvad_jax.evaluation import describe

    lines = [f"\nTrained {config.detector} for {result.steps} steps on {config.store}."]
    if result.last:
        lines.append(f"  last step: {describe(result.last)}")
    for name in ("best_on_validation", "best_on_test"):
        if measures := getattr(result, name):
            lines.append(f"  {name}, step {measures['step']}: {describe(measures)}")
    if not result.last:
        lines.append("  No test videos with abnormal_frames, so there are no measures.")
    store = config.store.split(",")[0]
    return "\n".join(
        [
            *lines,
            f"Results: {result.workdir}/result.json; curves: tensorboard --logdir={result.workdir}",
            f"Next: gvvad evaluate --workdir={result.workdir} --store={store}",
            f"      gvvad score --workdir={result.workdir} --store={store} --out=scores.npz",
        ]
    )


if __name__ == "__main__":
    define_flags(TrainConfig)
    run_command(main, usage=__doc__)
