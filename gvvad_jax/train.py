"""Trains a detector on real and generated videos that carry video-level labels only.

    python -m gvvad_jax.train --flagfile=configs/ucf_crime.flags --store=REAL \\
        --synthetic_store=SYN --synthetic_keep=decisions.jsonl --workdir=W [--seeds=5]

The same command resumes a run that was stopped at any moment, and ends with the same numbers. The
run's folder gets begun.json, config.flags, model.json, metrics.jsonl, TensorBoard events,
checkpoints/ and result.json. Prints result.json.

--seeds=N trains N runs in W/seed_0, W/seed_1 and so on, writes mean and spread of what they reach
to W/summary.json, and prints that. Exit status 3: some of them failed.
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gvvad_jax import seeds
from gvvad_jax.command import UserError, define_flags, from_flags, on_command_line, run_command
from gvvad_jax.config import TrainConfig, unread_flags

if TYPE_CHECKING:
    from gvvad_jax.training import Result


def main(_: Sequence[str]) -> None:
    config = from_flags(TrainConfig)
    check_unread(config)
    options = from_flags(seeds.SeedOptions)
    if options.seeds > 1:
        _fit_seeds(config, options)
        return
    # After the check of the flags, so that a mistake in them is reported at once.
    import jax

    from gvvad_jax.training import fit

    result = fit(config)
    if jax.process_index():
        return  # The first of several processes reports.
    print(json.dumps(result.to_json()))
    if sys.stderr.isatty():
        print(summary(result, config), file=sys.stderr)


def _fit_seeds(config: TrainConfig, options: seeds.SeedOptions) -> None:
    found = seeds.fit(config, options)
    print(json.dumps(found))
    if sys.stderr.isatty():
        print(f"{config.workdir}:\n{seeds.describe(found)}", file=sys.stderr)
    if found["failed"]:
        sys.exit(3 if found["seeds"] else 1)


def check_unread(config: TrainConfig) -> None:
    """Refuses flags without effect on the command line, and names those of a flagfile.

    A flagfile may serve several detectors, each of which reads its own flags, and runs with and
    without generated videos: what only these need isn't named.
    """
    unread = unread_flags(config)
    for name, need in unread.items():
        if on_command_line(name):
            raise UserError(
                f"--{name}: expected {need}, found another setting; it would have no effect: "
                "leave it out"
            )
    unread = {name: need for name, need in unread.items() if need != "--synthetic_store"}
    if unread:
        listed = ", ".join(f"--{name} (needs {need})" for name, need in unread.items())
        print(f"flags without effect in this run: {listed}", file=sys.stderr)


def summary(result: "Result", config: TrainConfig) -> str:
    """Results, their place and the next commands, for people."""
    from gvvad_jax.measures import describe
    from gvvad_jax.probing import Baseline

    lines = [f"\nTrained {config.detector} for {result.steps} steps on {config.store}."]
    if result.last:
        lines.append(f"  last step: {describe(result.last)}")
    for name in ("best_on_validation", "best_on_test"):
        if measures := getattr(result, name):
            lines.append(f"  {name}, step {measures['step']}: {describe(measures)}")
    if result.last and result.probe:
        gain = Baseline(**result.probe).describe(result.last["video_auc"])
        lines += [f"  last step: {gain}"] if gain else []
    if not result.last:
        lines.append("  No test videos, so there are no measures.")
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
    define_flags(TrainConfig, seeds.SeedOptions)
    run_command(main, usage=__doc__)
