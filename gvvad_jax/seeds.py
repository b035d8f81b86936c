"""Several seeds of one run: each in a folder of its own, and a summary of all of them.

On a GPU or TPU the seeds train in one program (together.py), on CPUs in processes, each on a core
of its own, which share compiled programs by --compilation_cache. A seed that fails stops no other.
"""

import dataclasses
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gvvad_jax.command import Interrupted, UserError, check, group
from gvvad_jax.config import CHECKPOINTS, TrainConfig
from gvvad_jax.store import folders
from gvvad_jax.store.files import write_json
from gvvad_jax.store.workers import Worker, pool, ready

SEEDS = group("Seeds")
SEEDS_AT_ONCE: int = SEEDS(
    0,
    "Seeds that train in one program; 0 takes all of them on a GPU or TPU, and one on CPUs, where "
    "processes train several.",
    low=0,
    free=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedOptions:
    """How many seeds to train; each field is a flag."""

    seeds: int = SEEDS(
        1,
        "Runs to train, of --seed and the seeds after it, each in WORKDIR/seed_N; "
        "WORKDIR/summary.json has their mean and spread.",
        low=1,
    )
    seeds_at_once: int = SEEDS_AT_ONCE

    def __post_init__(self) -> None:
        check(self)


def fit(config: TrainConfig, options: SeedOptions) -> dict[str, Any]:
    """Trains several seeds of a run; the same call again resumes them.

    Args:
      config: the first seed's settings, with the folder of all.
      options: how many seeds.

    Returns:
      The summary, see `summary`, with `failed`: why a seed has no result, by seed. It lies in
      summary.json, too.

    Raises:
      UserError: settings or data that no seed can use; a folder of something else.
    """
    if config.processes != "one":
        raise UserError(
            f"--seeds: expected --processes=one, found {config.processes}; start a run of each "
            "seed by itself"
        )
    if not config.workdir:
        raise UserError("--workdir: expected a folder for the runs, found none; give one")
    root = folders.claim(config.workdir, "seeds", flag="--workdir")
    with folders.locked(root / ".lock", folders.busy(root, "train there", ", or stop it")):
        configs = [
            dataclasses.replace(config, seed=seed, workdir=str(root / f"seed_{seed}"))
            for seed in range(config.seed, config.seed + options.seeds)
        ]
        began, results, failed = time.monotonic(), dict[int, Any](), dict[int, str]()
        for seed, outcome in _outcomes(configs, options.seeds_at_once, root):
            if isinstance(outcome, Mapping):
                results[seed] = outcome
            else:
                failed[seed] = str(outcome)
                print(f"seed {seed}: {outcome}", file=sys.stderr, flush=True)
            hours = (time.monotonic() - began) / 3600
            done = len(results) + len(failed)
            print(
                f"seed {seed}: {done} of {len(configs)} done, {done / hours:.3g} runs an hour",
                file=sys.stderr,
                flush=True,
            )
        found = summary(results) | {"failed": {str(seed): why for seed, why in failed.items()}}
        write_json(root / "summary.json", found)
    return found


def _outcomes(
    configs: Sequence[TrainConfig], at_once: int, root: pathlib.Path
) -> Iterator[tuple[int, Any]]:
    """Yields (seed, result.json's content, or why there is none) as the runs end."""
    single = configs[0].parallel == "single"
    at_once = at_once or (usual_at_once(len(configs)) if single else 1)
    if at_once == 1 and single and not _has_accelerator():
        yield from _in_processes(configs, root)
        return
    from gvvad_jax import together, training

    for start in range(0, len(configs), at_once):
        part = configs[start : start + at_once]
        fitted: Sequence[together.Outcome]
        try:
            fitted = together.fit(part) if at_once > 1 else [training.fit(part[0])]
        except Interrupted as error:
            fitted = [error]
        for config, outcome in zip(part, fitted, strict=True):
            done = None if isinstance(outcome, Interrupted) else outcome.to_json()
            yield config.seed, str(outcome) if done is None else done


def usual_at_once(count: int) -> int:
    """How many of `count` runs train in one program on this machine: all on a GPU or TPU."""
    return count if _has_accelerator() else 1


def _has_accelerator() -> bool:
    import jax

    return jax.default_backend() != "cpu"


def _in_processes(configs: Sequence[TrainConfig], root: pathlib.Path) -> Iterator[tuple[int, Any]]:
    waiting, busy = list(configs), dict[Worker, int]()
    with pool(0 if len(configs) > 1 else 1, root / "logs") as workers:
        while waiting or busy:
            for worker in workers:
                if worker not in busy and waiting:
                    config = waiting.pop(0)
                    busy[worker] = config.seed
                    worker.start(_fit_one, config)
            for worker in ready(busy):
                seed, outcome = busy.pop(worker), worker.outcome()
                if outcome.is_mistake:
                    # Every seed would be refused for it.
                    raise UserError(outcome.refused)
                yield seed, outcome.refused or outcome.value


def _fit_one(config: TrainConfig) -> dict[str, Any]:
    from gvvad_jax import training

    return training.fit(config).to_json()


def summary(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns mean and spread over seeds of what runs reached on the test videos.

    Args:
      results: content of result.json by seed.

    Returns:
      {"seeds", "last", "best_on_validation", and "best_on_test" where it was asked for}: for each
      checkpoint, by measure, {"mean", "std" (None of a single seed), "min", "max", "of": the value
      by seed}.
    """
    seeds = sorted(results)
    found: dict[str, Any] = {"seeds": seeds}
    for kind in CHECKPOINTS:
        if kind == "best_on_test" and not any(kind in result for result in results.values()):
            continue
        measured = {seed: results[seed].get(kind) or {} for seed in seeds}
        names = dict.fromkeys(name for values in measured.values() for name in values)
        found[kind] = {
            name: spread for name in names if (spread := _spread(measured, name)) is not None
        }
    return found


def _spread(measured: Mapping[int, Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    values = {
        str(seed): float(value)
        for seed, measures in measured.items()
        if isinstance(value := measures.get(name), int | float) and math.isfinite(value)
    }
    if not values:
        return None
    numbers = list(values.values())
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "min": min(numbers),
        "max": max(numbers),
        "of": values,
    }


def describe(found: Mapping[str, Any]) -> str:
    """The summary as lines for people."""
    lines = []
    for kind in (kind for kind in CHECKPOINTS if kind in found):
        for name in ("auc", "ap", "auc_abnormal", "far", "video_auc", "video_ap"):
            if spread := found[kind].get(name):
                std = "" if spread["std"] is None else f" +- {spread['std']:.3f}"
                lines.append(
                    f"  {kind}: {name} {spread['mean']:.3f}{std} ({spread['min']:.3f} to "
                    f"{spread['max']:.3f}, {len(spread['of'])} seeds)"
                )
    return "\n".join(lines)
