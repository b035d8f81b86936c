"""The detectors study: every detector with and without generated videos, seed by seed.

The footage is rendered by the built-in world, and beside it a videos.json of real video (UCSD Ped2)
where one is given. The generated videos are the world's in both cases. They don't show the real
data set's anomalies, so on real video the study shows that the mechanism runs and what it costs,
not what fitting videos would bring.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gvvad_jax import config as config_lib
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import annotations
from tools.studies import runs, statistics
from tools.studies.runs import MEASURES

ARMS = ("real only", "+ generated")
# Pairs of videos that the world renders.
WORLD = {"train_pairs": 30, "test_pairs": 20, "generated_pairs": 40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorStudy(runs.Study):
    """The detectors study; without `videos` it runs on the world's footage alone."""


def run(study: DetectorStudy, train: TrainConfig) -> dict[str, Any]:
    """Runs or resumes the study.

    Args:
      study: the study; run n of each detector and arm has seed n, so that runs pair up.
      train: training flags; detector, stores, workdir and seed are set for each run.

    Returns:
      {"steps", "seeds", "footage": {name: {"rules": {rule: measures}, "detectors": {detector:
      {arm: {measure: {"mean", "sd"}}, "difference": {measure: statistics.paired}}}}}}. A
      difference is the measure with generated videos minus the one without.

    Raises:
      UserError: a fault of the videos or the flags, or a folder that was begun with other flags.
    """
    from generation import pipeline

    plan = pipeline.PipelinePlan(out=str(study.folder / "world"), **WORLD)
    data = pipeline.run(pipeline.PipelineSettings(plan=plan))
    footage = {"world": (data["real_store"], data["real_videos"])}
    if study.videos:
        name = pathlib.Path(study.videos).resolve().parent.name
        footage[name] = str(_encode(study, name)), study.videos
    return {
        "steps": train.steps,
        "seeds": study.seeds,
        "footage": {
            name: {
                "detectors": _detectors(_configs(study, train, name, store_path, data), name),
                "rules": _rules(videos, study.folder / "rules"),
            }
            for name, (store_path, videos) in footage.items()
        },
    }


def _configs(
    study: DetectorStudy, train: TrainConfig, footage: str, store_path: str, data: Mapping[str, Any]
) -> dict[tuple[str, str], list[TrainConfig]]:
    """The runs of each detector and arm, in the order of their seeds."""

    def config(detector: str, arm: str, seed: int) -> TrainConfig:
        generated = arm != ARMS[0]
        name = f"{footage}-{detector}-{'generated' if generated else 'real'}-{seed:02d}"
        return dataclasses.replace(
            train,
            detector=detector,
            store=store_path,
            synthetic_store=data["synthetic_store"] if generated else "",
            synthetic_keep=data["decisions"] if generated else "",
            workdir=str(study.folder / "runs" / name),
            seed=seed,
        )

    return {
        (detector, arm): [config(detector, arm, seed) for seed in range(study.seeds)]
        for detector in config_lib.DETECTORS
        for arm in ARMS
    }


def _encode(study: DetectorStudy, name: str) -> pathlib.Path:
    """Encodes the real videos with the recipe of the world's stores."""
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions

    path = study.folder / name
    encoding.encode(study.videos, path, EncodeOptions())
    return path


def _detectors(
    configs: Mapping[tuple[str, str], Sequence[TrainConfig]], footage: str
) -> dict[str, Any]:
    results: dict[tuple[str, str], list[statistics.Measures]] = {key: [] for key in configs}
    for seed in range(len(next(iter(configs.values())))):
        for (detector, arm), seeds in configs.items():
            print(f"{footage}: {detector}, {arm}, seed {seed}", file=sys.stderr, flush=True)
            results[detector, arm].append(runs.finished_run(seeds[seed])["last"])
    before, after = ARMS
    return {
        detector: {arm: statistics.spreads(results[detector, arm], MEASURES) for arm in ARMS}
        | {
            "difference": statistics.paired_measures(
                results[detector, after], results[detector, before], MEASURES
            )
        }
        for detector in config_lib.DETECTORS
    }


def _rules(videos: str, folder: pathlib.Path) -> dict[str, Any]:
    """Measures of the baselines on the test videos."""
    from tools.studies import baselines

    annotated = annotations.load(videos)
    test = annotated.in_split("test")
    return baselines.measure(runs.baseline_scores(annotated, test, folder), test)
