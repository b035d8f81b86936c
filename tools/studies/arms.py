"""The demo's arms: one detector trained in three ways over paired seeds, and what each reaches."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from generation import pipeline
from gvvad_jax import splits
from gvvad_jax.command import UserError, to_flagfile
from gvvad_jax.config import TrainConfig, unread_flags
from gvvad_jax.store import annotations, digests, folders
from gvvad_jax.store.files import read_json, write_json
from gvvad_jax.store.reader import Store
from gvvad_jax.store.workers import Worker, finished, pool, value
from tools.studies import curves, findings, runs, sharing, statistics

MEASURES = tuple(findings.NAMES)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
      name: name in tables.
      generated: whether it trains on generated videos.
      as_given: whether by the flags that were given, and on the videos that the filter keeps;
        otherwise all flags about generated videos have their defaults, which are the paper's, and
        every generated video is trained on.
      row: what the studies call it (configs/studies).
    """

    name: str
    generated: bool
    as_given: bool
    row: str


ARMS = (
    Arm("real only", False, False, "real only"),
    Arm("+ generated, as published", True, False, "SSLS 0.5"),
    Arm("+ generated, GV-VAD here", True, True, "GV-VAD here"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoRun:
    """What the demo runs.

    Attributes:
      data: settings of the data pipeline; its folder is the demo's.
      train: training flags; stores, workdir and seed are set for each run.
      seeds: number of runs of each arm; run n of every arm has seed n, so that arms pair up.
      real_abnormal: abnormal videos among the rendered training footage; None: one a pair.
      workers: processes; 0 takes one a core, at most four.
    """

    data: pipeline.PipelineSettings
    train: TrainConfig
    seeds: int
    real_abnormal: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        plan = self.data.plan
        if not plan.out:
            raise UserError("--out: expected a folder to write, found none; give one")
        if self.real_abnormal is not None and (
            plan.videos or not 1 <= self.real_abnormal <= plan.train_pairs
        ):
            found = "--videos" if plan.videos else self.real_abnormal
            raise UserError(
                f"--real_abnormal: expected 1 to {plan.train_pairs} (--train_pairs) without "
                f"--videos, found {found}; correct it"
            )

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.data.plan.out)

    @property
    def is_rendered(self) -> bool:
        """Whether the built-in world stands in for real videos."""
        return not self.data.plan.videos


def run(demo: DemoRun) -> tuple[dict[str, Any], list[curves.Curve]]:
    """Runs or resumes the demo; writes demo.json into its folder.

    Returns:
      (result, the test videos to show with their scores). The result is {"finding", "detector",
      "arms": see `compare`, "trained": what each arm trains on, "thresholds": of events, with seed
      0, "rules": {rule: {"auc", "auc_abnormal", "flipped"}}, "filter", "caught", "data",
      "rendered", "seeds", "flags", "plan", "provenance"}.

    Raises:
      UserError: a fault of the flags or videos, no test video, or a folder that was begun with
        other flags or that another demo works in.
    """
    out = demo.folder
    # The folder is a pipeline's too, which takes none that holds anything else.
    folders.claim(out, "pipeline")
    busy = f"{out}: expected no other demo at work there, found one; wait until it has ended"
    with (
        folders.locked(out / ".demo.lock", busy),
        pool(demo.workers, out / "logs") as workers,
    ):
        paths, rules = _data(demo, workers)
        shown = curves.choose(Store(paths["real_store"]))
        results = _train(demo, paths, workers, shown)
    measures = {
        arm.name: [{m: each["last"][m] for m in MEASURES} for each in results[arm.name]]
        for arm in ARMS
    }
    last = results[ARMS[-1].name][-1]["provenance"]
    result = {
        "detector": demo.train.detector,
        "arms": compare(measures),
        "trained": _trained(demo, paths),
        "thresholds": {n: curves.threshold_text(each[0]["last"]) for n, each in results.items()},
        "rules": rules,
        "filter": paths["filter"],
        "caught": _caught(out),
        "data": _counts(paths),
        "rendered": demo.is_rendered,
        "seeds": demo.seeds,
        "flags": to_flagfile(demo.train),
        "plan": demo.data.chosen | {"real_abnormal": demo.real_abnormal},
        "provenance": last | {"decisions": digests.of_file(paths["decisions"])},
    }
    result = {"finding": findings.finding(result)} | result
    write_json(out / "demo.json", result)
    first = {name: results[name][0] for name in results}
    videos = curves.of(annotations.load(paths["real_videos"]), paths["real_store"], shown, first)
    return result, videos


class _Stage:
    """Says on standard error how long a part of the demo has taken."""

    def __init__(self, name: str):
        self._name, self._began = name, time.monotonic()

    def end(self) -> None:
        seconds = time.monotonic() - self._began
        print(f"demo: {self._name}: {seconds:.0f} s", file=sys.stderr, flush=True)


def _data(demo: DemoRun, workers: Sequence[Worker]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's paths and the measures of the rules that learn nothing.

    Processes share the footage and its encoding; then they measure the rules, while the pipeline
    goes on with what isn't there yet.
    """
    from tools.studies import baselines

    plan, settings = demo.data.plan, demo.data
    if demo.is_rendered:
        stage = _Stage("footage, rendered and encoded")
        videos = str(demo.folder / "footage" / "videos.json")
        sharing.as_ranks(workers, _render, demo)
        # Alone, because only then is what a killed process has left removed.
        sharing.as_ranks(workers[:1], _render, demo)
        settings = dataclasses.replace(settings, plan=dataclasses.replace(plan, videos=videos))
        sharing.as_ranks(workers, _encode, settings)
        stage.end()
    stage = _Stage("generated videos, filter and rules")
    annotated = annotations.load(settings.plan.videos)
    test, rules = annotated.in_split("test"), demo.folder / "rules"
    for number, worker in enumerate(workers):
        worker.start(_score_rules, annotated, test[number :: len(workers)], rules)
    paths = pipeline.run(settings)
    for worker in workers:
        value(worker)
    measured = baselines.measure(runs.baseline_scores(annotated, test, rules), test)
    stage.end()
    return paths, measured


def _render(demo: DemoRun) -> None:
    """Renders this rank's share of the footage; in a worker."""
    from generation.videos.world_backend import render_footage

    plan = demo.data.plan
    render_footage(
        demo.folder / "footage",
        plan.train_pairs,
        plan.test_pairs,
        plan.data_seed,
        train_abnormal=demo.real_abnormal,
        progress=False,
    )


def _encode(settings: pipeline.PipelineSettings) -> None:
    """Encodes this rank's share of the real videos as the pipeline would; in a worker."""
    from generation.encode import encoding

    plan, rows = settings.plan, settings.rows
    out = pathlib.Path(plan.out)
    cache = rows.cache or str(out / "captions.answers")
    options = dataclasses.replace(rows, source="real", cache=cache)
    encoding.encode(plan.videos, out / "real", options, progress=False)


def _score_rules(
    annotated: annotations.Annotations,
    videos: Sequence[annotations.VideoAnnotation],
    folder: pathlib.Path,
) -> None:
    """Keeps the rules' scores of some videos in files; in a worker."""
    runs.baseline_scores(annotated, videos, folder)


def _train(
    demo: DemoRun, paths: Mapping[str, Any], workers: Sequence[Worker], shown: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Trains every arm with every seed, or takes what is finished; see `_run` for the values."""
    stage = _Stage("training")
    calls = [
        ((arm.name, seed), _run, _run_config(demo, paths, arm, seed), () if seed else shown)
        for seed in range(demo.seeds)
        for arm in ARMS
    ]
    done: dict[tuple[str, int], dict[str, Any]] = {}
    for (name, seed), measured in finished(workers, calls):
        done[name, seed] = measured
        print(
            f"demo: {name}, seed {seed}: AUC {measured['last']['auc']:.3f} "
            f"({len(done)} of {len(calls)})",
            file=sys.stderr,
            flush=True,
        )
    stage.end()
    return {arm.name: [done[arm.name, seed] for seed in range(demo.seeds)] for arm in ARMS}


def _run(config: TrainConfig, shown: Sequence[str]) -> dict[str, Any]:
    """Trains a run, in a worker.

    Returns:
      {"last", "provenance", "snippets"}: result.json's, and the snippet scores [T] of the test
      videos that are shown, by id.
    """
    from gvvad_jax import scoring

    result = runs.finished_run(config, MEASURES)
    snippets: Mapping[str, np.ndarray] = {}
    if shown:
        opened = Store(config.store)
        features = {i: (opened.visual(i), opened.text(i)) for i in shown}
        snippets = scoring.load(config.workdir).score(features)
    return {key: result[key] for key in ("last", "provenance")} | {"snippets": snippets}


def _run_config(demo: DemoRun, paths: Mapping[str, Any], arm: Arm, seed: int) -> TrainConfig:
    """The run of an arm with a seed."""
    config = dataclasses.replace(
        demo.train,
        store=paths["real_store"],
        synthetic_store="",
        synthetic_keep="",
        workdir=str(demo.folder / "runs" / f"{ARMS.index(arm)}-{seed}"),
        seed=seed,
    )
    if not arm.as_given:
        # What has no effect on real videos alone.
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        config = dataclasses.replace(config, **{n: defaults[n] for n in unread_flags(config)})
    if not arm.generated:
        return config
    return dataclasses.replace(
        config,
        synthetic_store=paths["synthetic_store"],
        synthetic_keep=paths["decisions"] if arm.as_given else "",
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


def _trained(demo: DemoRun, paths: Mapping[str, Any]) -> dict[str, Any]:
    """How many videos are trained on: {"real" or an arm: {"normal", "abnormal"}, "held_out"}."""
    counts: dict[str, Any] = {}
    for arm in ARMS:
        opened, _ = splits.open_splits(_run_config(demo, paths, arm, 0))
        source = "synthetic" if arm.generated else "real"
        labels = [m.video.label for m in opened.train if m.row.source == source]
        counts[arm.name if arm.generated else "real"] = {
            "normal": labels.count(0), "abnormal": labels.count(1),
        }  # fmt: skip
        counts["held_out"] = len(opened.validation)
    return counts


def _caught(out: pathlib.Path) -> dict[str, list[int]] | None:
    """[number dropped by the filter, number] of the world's videos by their planted defect.

    None where another generator made the videos, whose defects nobody knows.
    """
    path = out / "generated" / "world_truth.json"
    if not path.exists():
        return None
    truth, keep = read_json(path), splits.read_decisions(str(out / "decisions.jsonl"))
    caught: dict[str, list[int]] = {}
    for video_id, entry in truth.items():
        counts = caught.setdefault(entry["defect"] or "sound", [0, 0])
        counts[0] += not keep[video_id]
        counts[1] += 1
    return dict(sorted(caught.items()))


def _counts(paths: Mapping[str, Any]) -> dict[str, int]:
    """Number of real videos in each split, and of generated videos."""
    real, synthetic = Store(paths["real_store"]), Store(paths["synthetic_store"])
    listed = [real.videos.videos[video_id].split for video_id in real.rows]
    return {split: listed.count(split) for split in annotations.SPLITS} | {
        "generated": len(synthetic.rows)
    }
