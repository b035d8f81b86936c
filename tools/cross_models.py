"""Every detector with and without generated videos, on the same footage with the same seeds.

The study `detectors` of tools.study. Rendered footage of the built-in world, and beside it a
videos.json of real video (UCSD Ped2) where one is given. The generated videos are the world's in
both: they aren't that data set's anomalies, so on real video the study shows that the mechanism
runs and what it costs, not what fitting videos would bring.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gvvad_jax import config as config_lib
from gvvad_jax.store import annotations
from gvvad_jax.store.files import read_json

MEASURES = ("auc", "auc_abnormal")
ARMS = ("real only", "+ generated")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the study runs.

    Attributes:
      out: folder of the study.
      videos: videos.json of real video; empty for the world alone.
      seeds: runs of each detector and arm; run n of each has seed n, so that they pair up.
      train_pairs, test_pairs, generated_pairs: of the world's videos.
      train: the training flags; detector, stores, workdir and seed are set for each run.
    """

    out: pathlib.Path
    videos: str
    seeds: int
    train: config_lib.TrainConfig
    train_pairs: int = 30
    test_pairs: int = 20
    generated_pairs: int = 40


def run(plan: Plan) -> dict[str, Any]:
    """Runs or resumes the study.

    Returns:
      {"steps", "seeds", "footage": {name: {"rules": {rule: measures}, "detectors": {detector:
      {arm: {measure: {"mean", "sd"}}, "difference": {measure: {"mean", "sd", "wins"}}}}}}}. A
      difference is seed by seed, with generated videos less without.

    Raises:
      UserError: a fault of the videos or the flags, or a folder begun with other flags.
    """
    from generation import pipeline

    made = pipeline.run(
        pipeline.PipelineSettings(
            plan=pipeline.PipelinePlan(
                out=str(plan.out / "world"),
                train_pairs=plan.train_pairs,
                test_pairs=plan.test_pairs,
                generated_pairs=plan.generated_pairs,
            )
        )
    )
    stores = {"world": made["real_store"]}
    videos = {"world": made["real_videos"]}
    if plan.videos:
        name = pathlib.Path(plan.videos).resolve().parent.name
        stores[name], videos[name] = str(_encode(plan, name)), plan.videos
    found: dict[str, Any] = {}
    for name, path in stores.items():
        configs = {
            (detector, arm): [
                _run_config(plan, name, path, made, detector, arm, seed)
                for seed in range(plan.seeds)
            ]
            for detector in config_lib.DETECTORS
            for arm in ARMS
        }
        found[name] = {
            "detectors": _detectors(configs, name),
            "rules": _rules(videos[name], plan.out),
        }
    return {"steps": plan.train.steps, "seeds": plan.seeds, "footage": found}


def _run_config(
    plan: Plan,
    footage: str,
    store_path: str,
    made: Mapping[str, Any],
    detector: str,
    arm: str,
    seed: int,
) -> config_lib.TrainConfig:
    generated = arm != ARMS[0]
    name = f"{footage}-{detector}-{'generated' if generated else 'real'}-{seed:02d}"
    return dataclasses.replace(
        plan.train,
        detector=detector,
        store=store_path,
        synthetic_store=made["synthetic_store"] if generated else "",
        synthetic_keep=made["decisions"] if generated else "",
        workdir=str(plan.out / "runs" / name),
        seed=seed,
    )


def _encode(plan: Plan, name: str) -> pathlib.Path:
    """The real video with the recipe of the world's stores."""
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions

    path = plan.out / name
    encoding.encode(plan.videos, path, EncodeOptions())
    return path


def _detectors(configs: Mapping[Any, Sequence[config_lib.TrainConfig]], footage: str) -> Any:
    from tools import study

    runs: dict[Any, list[Mapping[str, float]]] = {key: [] for key in configs}
    for seed in range(len(next(iter(configs.values())))):
        for (detector, arm), of_seed in configs.items():
            print(f"{footage}: {detector}, {arm}, seed {seed}", file=sys.stderr, flush=True)
            runs[detector, arm].append(study.finished_run(of_seed[seed])["last"])
    found = {}
    for detector in config_lib.DETECTORS:
        found[detector] = {
            arm: {m: study.spread([run[m] for run in runs[detector, arm]]) for m in MEASURES}
            for arm in ARMS
        }
        pairs = list(zip(*(runs[detector, arm] for arm in ARMS), strict=True))
        found[detector]["difference"] = {
            m: study.spread([after[m] - before[m] for before, after in pairs])
            | {"wins": sum(after[m] > before[m] for before, after in pairs)}
            for m in MEASURES
        }
    return found


def _rules(videos: str, folder: pathlib.Path) -> dict[str, Any]:
    """Trivial rules on the test videos, decoded once a study."""
    from gvvad_jax.store.files import write_atomically
    from tools import baselines

    annotated = annotations.load(videos)
    path = folder / f"rules-{baselines.footage_digest(annotated)}.json"
    if not path.exists():
        test = annotated.in_split("test")
        measured = baselines.measure(baselines.score_videos(annotated, test), test)
        write_atomically(path, (json.dumps(measured, indent=1) + "\n").encode())
    return read_json(path)


def table(found: Mapping[str, Any]) -> str:
    """The study as Markdown: AUC / abnormal-only AUC, mean +- sd over seeds."""

    def cell(entry: Mapping[str, Mapping[str, float]], sign: str = "") -> str:
        return " / ".join(f"{entry[m]['mean']:{sign}.3f} +- {entry[m]['sd']:.3f}" for m in MEASURES)

    lines = [f"{found['steps']} steps, {found['seeds']} seeds"]
    for footage, part in found["footage"].items():
        lines += [
            "",
            f"| {footage} | {' | '.join(ARMS)} | difference (better in) |",
            "|---|---|---|---|",
        ]
        for detector, entry in part["detectors"].items():
            wins = " / ".join(str(entry["difference"][m]["wins"]) for m in MEASURES)
            cells = [cell(entry[arm]) for arm in ARMS]
            lines.append(
                f"| {detector} | {' | '.join(cells)} | {cell(entry['difference'], '+')} ({wins}) |"
            )
        for rule, entry in part["rules"].items():
            name = rule + (", sign flipped" if entry["flipped"] else "")
            lines.append(f"| {name} | {entry['auc']:.3f} / {entry['auc_abnormal']:.3f} | | |")
    return "\n".join(lines)
