"""Which generated videos help, known before training, in seconds.

    python -m tools.probe --store=REAL --synthetic_store=A,B [--synthetic_keep=A.jsonl,B.jsonl]

A logistic regression on each video's mean features stands in for a detector. It is cross-validated
over groups of the real training videos (`group` in videos.json; a video without one is its own
group), without and with each store's generated videos, which join the training folds only. A store
helps or hurts where the 95 % interval of the paired differences lies above or below 0. The test
videos are measured too, with all real training videos for training.

Stores of two generators may have the same ids, as of one prompts.jsonl; each then has a file of
decisions of its own. Takes a training's flagfile. Prints a table on standard error and one JSON
object on standard output.
"""

import copy
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from gvvad_jax.command import UserError, define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig

if TYPE_CHECKING:
    from gvvad_jax.probing import Probe
    from gvvad_jax.splits import Splits

# The flags of training that say which videos, and how their features are standardised.
_READ = (
    "store", "synthetic_store", "synthetic_keep", "annotations", "real_share", "standardise",
    "standardise_by", "allow_shared_rows", "verify_rows", "seed",
)  # fmt: skip
ProbeOptions = dataclasses.make_dataclass(
    "ProbeOptions",
    [(f.name, f.type, copy.copy(f)) for f in dataclasses.fields(TrainConfig) if f.name in _READ],
    frozen=True,
)


def main(_: list[str]) -> None:
    from gvvad_jax import probing

    # A detector that needs no text; all training videos of the list train.
    config = TrainConfig(
        detector="rtfm", validation_share=0.0, **dataclasses.asdict(from_flags(ProbeOptions))
    )
    result = probing.probe(open_videos(config), config)
    print(table(result), file=sys.stderr)
    print(json.dumps(result.to_json()))


def open_videos(config: TrainConfig) -> "Splits":
    """Opens the videos; stores of generated ones one by one, so that they may share ids.

    Raises:
      UserError: see `splits.open_splits`; or there are several files of decisions, but not one for
        each store.
    """
    from gvvad_jax.splits import open_splits

    stores, keeps = config.synthetic_store.split(","), config.synthetic_keep.split(",")
    if len(keeps) > 1 and len(keeps) != len(stores):
        raise UserError(
            "--synthetic_keep: expected one file of decisions, or one for each of the "
            f"{len(stores)} stores, found {len(keeps)}; name as many"
        )
    # One file of decisions for several stores can't tell two videos of one id apart.
    if len(keeps) == 1 and (config.synthetic_keep or not all(stores)):
        stores, keeps = [config.synthetic_store], [config.synthetic_keep]
    keeps = keeps if len(keeps) > 1 else keeps * len(stores)
    opened = [
        open_splits(dataclasses.replace(config, synthetic_store=store, synthetic_keep=keep))[0]
        for store, keep in zip(stores, keeps, strict=True)
    ]
    for each in opened:
        if why := each.reasons.get("synthetic"):
            print(why, file=sys.stderr)
    others = [m for each in opened[1:] for m in each.train if m.row.source != "real"]
    return dataclasses.replace(opened[0], train=[*opened[0].train, *others])


def table(probe: "Probe") -> str:
    """Returns the probe as a table for people."""
    names = ["real videos only", *(f"+ {each.store}" for each in probe.sets)]
    width = max(map(len, names))
    lines = [f"{'':{width}s}  normal  abnormal    AUC  difference, 95 % interval     test AUC"]
    row = f"{names[0]:{width}s}  {probe.normal:6d}  {probe.abnormal:8d}  {_number(probe.auc)}"
    lines.append(f"{row}  {'':28s} {_number(probe.test_auc)}")
    for name, each in zip(names[1:], probe.sets, strict=True):
        interval = ""
        if each.difference is not None:
            interval = f"{each.difference:+.3f}"
        if each.interval is not None:
            interval += f" [{each.interval[0]:+.3f}, {each.interval[1]:+.3f}]"
        row = f"{name:{width}s}  {each.normal:6d}  {each.abnormal:8d}  {_number(each.auc)}"
        lines.append(f"{row}  {interval:28s} {_number(each.test_auc)}  {each.verdict}")
    if probe.folds:
        lines.append(f"{probe.folds} held-out folds of {probe.groups} groups of real videos")
    if probe.reason:
        lines.append(f"no verdict: {probe.reason}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "    -" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    define_flags(ProbeOptions)
    run_command(main, usage=__doc__)
