"""The demo's arms: one detector trained in five ways over paired seeds, and what each reaches."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from generation import pipeline
from gvvad_jax.command import to_flagfile
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import alignment, annotations, digests
from gvvad_jax.store.files import read_json, write_atomically, write_json
from gvvad_jax.store.reader import Store
from tools.studies import runs, statistics

MEASURES = ("auc", "auc_abnormal", "ap", "far")
# Number of test videos of each label whose score curves the page shows, evenly over the ids.
CURVES = 3


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
      name: name in tables.
      keep: the generated videos to train on: none (None), "all", those that the "filter" keeps, or
        as many drawn at "random".
      lambda_value: weight of the generated videos' loss.
    """

    name: str
    keep: str | None = None
    lambda_value: float = 0.5


ARMS = (
    Arm("real only"),
    Arm("+ generated, lambda 1", "all", 1.0),
    Arm("+ generated, lambda 0.5", "all"),
    Arm("+ filtered, lambda 0.5", "filter"),
    Arm("+ dropped at random, lambda 0.5", "random"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoRun:
    """What the demo runs.

    Attributes:
      data: settings of the data pipeline; its folder is the demo's.
      train: training flags; stores, lambda, workdir and seed are set for each run.
      seeds: number of runs of each arm; run n of every arm has seed n, so that arms pair up.
    """

    data: pipeline.PipelineSettings
    train: TrainConfig
    seeds: int

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.data.plan.out)


def run(demo: DemoRun) -> dict[str, Any]:
    """Runs or resumes the demo; writes demo.json and demo.html into its folder.

    Returns:
      {"arms": see `compare`, "rules": {rule: {"auc", "auc_abnormal", "flipped"}}, "filter",
      "caught", "data", "rendered", "seeds", "flags", "plan", "provenance"}.

    Raises:
      UserError: a fault of the flags or videos, no test video, or a folder that was begun with
        other flags.
    """
    from tools.pages import demo as demo_page
    from tools.studies import baselines

    out = demo.folder
    paths = pipeline.run(demo.data)
    annotated = annotations.load(paths["real_videos"])
    test = annotated.in_split("test")
    configs = {
        arm.name: [_run_config(demo, paths, number, seed) for seed in range(demo.seeds)]
        for number, arm in enumerate(ARMS)
    }
    results: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in ARMS}
    provenance: dict[str, Any] = {}
    for seed in range(demo.seeds):
        for name, seeds in configs.items():
            print(f"demo: {name}, seed {seed}", file=sys.stderr, flush=True)
            finished = runs.finished_run(seeds[seed], MEASURES)
            results[name].append({key: finished["last"][key] for key in MEASURES})
            provenance = finished["provenance"]
    print("demo: rules that learn nothing", file=sys.stderr, flush=True)
    rule_scores = runs.baseline_scores(annotated, test, out / "rules")
    result = {
        "arms": compare(results),
        "rules": baselines.measure(rule_scores, test),
        "filter": paths["filter"],
        "caught": _caught(out),
        "data": _counts(paths),
        "rendered": not demo.data.plan.videos,
        "seeds": demo.seeds,
        "flags": to_flagfile(demo.train),
        "plan": demo.data.chosen,
        "provenance": provenance | {"decisions": _file_digest(paths["decisions"])},
    }
    write_json(out / "demo.json", result)
    shown = [ARMS[0].name, ARMS[3].name]
    curves = _curves(annotated, paths["real_store"], {n: configs[n][0].workdir for n in shown})
    write_atomically(out / "demo.html", demo_page.page(result, curves).encode())
    return result


def _run_config(demo: DemoRun, paths: Mapping[str, Any], number: int, seed: int) -> TrainConfig:
    """The run of an arm (by its number) with a seed."""
    arm, at_random = ARMS[number], paths["random_decisions"]
    decisions = {"filter": paths["decisions"], "random": at_random[seed % len(at_random)]}
    return dataclasses.replace(
        demo.train,
        store=paths["real_store"],
        synthetic_store=paths["synthetic_store"] if arm.keep else "",
        synthetic_keep=decisions.get(arm.keep or "", ""),
        lambda_value=arm.lambda_value,
        workdir=str(demo.folder / "runs" / f"{number}-{arm.keep or 'real'}-{seed}"),
        seed=seed,
    )


def compare(results: Mapping[str, Sequence[statistics.Measures]]) -> dict[str, Any]:
    """Summarises each arm's runs and compares them with those of the first arm, seed by seed.

    Args:
      results: measures of each arm's runs, in the order of the seeds.

    Returns:
      {arm: {measure: {"mean", "sd"}, "difference": {measure: statistics.paired}, "runs"}}.
    """
    base = results[ARMS[0].name]
    return {
        name: statistics.spreads(arm, MEASURES)
        | {
            "difference": statistics.paired_measures(arm, base, MEASURES),
            "runs": [dict(measures) for measures in arm],
        }
        for name, arm in results.items()
    }


def _caught(out: pathlib.Path) -> dict[str, list[int]] | None:
    """[number dropped by the filter, number] of the world's videos by their planted defect.

    None where another generator made the videos, whose defects nobody knows.
    """
    path = out / "generated" / "world_truth.json"
    if not path.exists():
        return None
    from gvvad_jax.splits import read_decisions

    truth, keep = read_json(path), read_decisions(str(out / "decisions.jsonl"))
    caught: dict[str, list[int]] = {}
    for video_id, entry in truth.items():
        counts = caught.setdefault(entry["defect"] or "sound", [0, 0])
        counts[0] += not keep[video_id]
        counts[1] += 1
    return dict(sorted(caught.items()))


def _counts(paths: Mapping[str, Any]) -> dict[str, int]:
    """Number of real videos in each split, and of generated videos."""
    real, synthetic = Store(paths["real_store"]), Store(paths["synthetic_store"])
    splits = [real.videos.videos[video_id].split for video_id in real.rows]
    return {split: splits.count(split) for split in annotations.SPLITS} | {
        "generated": len(synthetic.rows)
    }


def _file_digest(path: str) -> str:
    return digests.of_file(path)


def _curves(
    annotated: annotations.Annotations, store_path: str, workdirs: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Frame scores of some test videos by arm, with their true intervals and two pictures each."""
    from generation.media import reading
    from gvvad_jax import scoring

    opened = Store(store_path)
    videos = _curve_videos(opened)
    features = {i: (opened.visual(i), opened.text(i)) for i in videos}
    scores = {arm: scoring.load(path).score(features) for arm, path in workdirs.items()}
    curves = []
    for video_id in videos:
        row, video = opened.rows[video_id], annotated.videos[video_id]
        frames = reading.read(annotated.resolve(video)).frames_TxHxWx3
        intervals = video.abnormal_frames or ()
        middle = sum(intervals[0]) // 2 if intervals else len(frames) // 2
        curves.append(
            {
                "id": video_id,
                "label": video.label,
                "fps": row.fps,
                "intervals": [list(interval) for interval in intervals],
                "scores": {
                    arm: alignment.frame_scores(
                        arm_scores[video_id], opened.times(video_id), row.num_frames, row.fps
                    )
                    for arm, arm_scores in scores.items()
                },
                "pictures": [(0, frames[0]), (middle, frames[middle])],
            }
        )
    return curves


def _curve_videos(opened: Store) -> list[str]:
    """Ids of the test videos whose curves are shown, abnormal ones first."""
    chosen = []
    for label in (1, 0):
        ids = sorted(
            i
            for i, video in opened.videos.videos.items()
            if video.split == "test" and video.label == label and i in opened.rows
        )
        places = np.linspace(0, len(ids) - 1, min(CURVES, len(ids))).round().astype(int)
        chosen += [ids[place] for place in np.unique(places)]
    return chosen
