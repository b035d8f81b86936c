"""The demo: does training on generated videos help, and does filtering them?

    python -m tools.demo --flagfile=configs/demo.flags --out=DIR

Runs generation.pipeline, trains the same detector in five arms over paired seeds, measures frames
of held-out footage, and compares with rules that learn nothing. The table goes to standard output
and, with curves, into DIR/demo.html. Killed anywhere, the same command goes on; a finished run is a
folder DIR/runs/ARM-SEED with a result.json from the same flags.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from generation import pipeline
from gvvad_jax import config as config_lib
from gvvad_jax.command import define_flags, from_flags, run_command, to_flagfile
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.files import read_json, write_atomically
from gvvad_jax.store.reader import Store
from tools import study

MEASURES = ("auc", "auc_abnormal", "ap", "far")
# Test videos whose score curves the page shows: so many of each label, evenly over the ids.
CURVES = 3


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train: `keep` is None without generated videos, else all, filter or random."""

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
class Plan:
    """What the demo runs.

    Attributes:
      data: of the pipeline; its folder is the demo's.
      train: the training flags; stores, lambda, workdir and seed are set for each run.
      seeds: runs of each arm; run n of every arm has seed n, so that arms pair up.
    """

    data: pipeline.PipelineSettings
    train: config_lib.TrainConfig
    seeds: int


def run(plan: Plan) -> dict[str, Any]:
    """Runs or resumes the demo; writes demo.json and demo.html.

    Returns:
      {"arms": {name: {"runs", measure: {"mean", "sd"}, "difference": {measure: {"mean", "sd",
      "wins"}}}}, "rules": {rule: {"auc", "auc_abnormal", "flipped"}}, "filter", "caught", "data",
      "seeds", "provenance"}. A difference is run by run, to the arm without generated videos.

    Raises:
      UserError: a fault of the flags or videos, no test video, or a folder begun otherwise.
    """
    from tools import report

    out = pathlib.Path(plan.data.plan.out)
    paths = pipeline.run(plan.data)
    annotated = annotations.load(paths["real_videos"])
    test = annotated.in_split("test")
    configs = {
        arm.name: [_run_config(plan, paths, arm, number, seed) for seed in range(plan.seeds)]
        for number, arm in enumerate(ARMS)
    }
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in ARMS}
    provenance = {}
    for seed in range(plan.seeds):
        for name, of_arm in configs.items():
            print(f"demo: {name}, seed {seed}", file=sys.stderr, flush=True)
            result = study.finished_run(of_arm[seed], MEASURES)
            runs[name].append({key: result["last"][key] for key in MEASURES})
            provenance = result["provenance"]
    print("demo: rules that learn nothing", file=sys.stderr, flush=True)
    found = {
        "arms": _arms(runs),
        "rules": _rules(annotated, test, out / "rules"),
        "filter": paths["filter"],
        "caught": _caught(out),
        "data": _counts(paths),
        "rendered": not plan.data.plan.videos,
        "seeds": plan.seeds,
        "flags": to_flagfile(plan.train),
        "plan": plan.data.chosen,
        "provenance": provenance | {"decisions": _hash(paths["decisions"])},
    }
    write_atomically(out / "demo.json", (json.dumps(found, indent=1) + "\n").encode())
    shown = [ARMS[0].name, ARMS[3].name]
    curves = _curves(annotated, paths["real_store"], {n: configs[n][0].workdir for n in shown})
    write_atomically(out / "demo.html", report.page(found, curves).encode())
    return found


def _run_config(
    plan: Plan, paths: Mapping[str, Any], arm: Arm, number: int, seed: int
) -> config_lib.TrainConfig:
    at_random = paths["random_decisions"]
    keep = {"filter": paths["decisions"], "random": at_random[seed % len(at_random)]}
    return dataclasses.replace(
        plan.train,
        store=paths["real_store"],
        synthetic_store=paths["synthetic_store"] if arm.keep else "",
        synthetic_keep=keep.get(arm.keep or "", ""),
        lambda_value=arm.lambda_value,
        workdir=str(
            pathlib.Path(plan.data.plan.out) / "runs" / f"{number}-{arm.keep or 'real'}-{seed}"
        ),
        seed=seed,
    )


def _arms(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    base, arms = runs[ARMS[0].name], {}
    for name, of_arm in runs.items():
        arms[name] = {m: study.spread([run[m] for run in of_arm]) for m in MEASURES}
        difference = {
            m: [ours[m] - theirs[m] for ours, theirs in zip(of_arm, base, strict=True)]
            for m in MEASURES
        }
        arms[name]["difference"] = {
            # Fewer false alarms are better, more of all else.
            m: study.spread(of_m) | {"wins": sum((d < 0) if m == "far" else (d > 0) for d in of_m)}
            for m, of_m in difference.items()
        }
        arms[name]["runs"] = [dict(run) for run in of_arm]
    return arms


def _rules(
    annotated: annotations.Annotations,
    test: Sequence[annotations.VideoAnnotation],
    folder: pathlib.Path,
) -> dict[str, Any]:
    """What the trivial rules and the oracle reach; each video's scores are kept in `folder`."""
    import tqdm

    from tools import baselines

    folder = folder / baselines.footage_digest(annotated)
    folder.mkdir(parents=True, exist_ok=True)
    scores = {}
    for video in tqdm.tqdm(test, desc="rules", unit="video"):
        path = folder / f"{hashlib.sha256(video.id.encode()).hexdigest()[:16]}.npz"
        if not path.exists():
            buffer = io.BytesIO()
            np.savez(buffer, **baselines.score_video(annotated, video))
            write_atomically(path, buffer.getvalue())
        with np.load(path, allow_pickle=False) as arrays:
            scores[video.id] = {rule: arrays[rule] for rule in baselines.RULES}
    return baselines.measure(scores, test)


def _caught(out: pathlib.Path) -> dict[str, list[int]] | None:
    """[dropped by the filter, all] of the world's clips by defect; None for other generators."""
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
    real, synthetic = Store(paths["real_store"]), Store(paths["synthetic_store"])
    splits = [real.videos.videos[video_id].split for video_id in real.rows]
    return {split: splits.count(split) for split in annotations.SPLITS} | {
        "generated": len(synthetic.rows)
    }


def _hash(path: str) -> str:
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def _curves(
    annotated: annotations.Annotations, store_path: str, workdirs: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Frame scores of some test videos by arm, with the truth and three pictures of each."""
    from generation.media import reading
    from gvvad_jax import scoring

    opened = Store(store_path)
    videos = []
    for label in (1, 0):
        ids = sorted(i for i, v in opened.videos.videos.items()
                     if v.split == "test" and v.label == label and i in opened.rows)  # fmt: skip
        chosen = np.unique(np.linspace(0, len(ids) - 1, min(CURVES, len(ids))).round().astype(int))
        videos += [ids[i] for i in chosen]
    features = {i: (opened.visual(i), opened.text(i)) for i in videos}
    scores = {arm: scoring.load(path).scores(features) for arm, path in workdirs.items()}
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
                        of_arm[video_id], opened.times(video_id), row.num_frames, row.fps
                    )
                    for arm, of_arm in scores.items()
                },
                "pictures": [(0, frames[0]), (middle, frames[middle])],
            }
        )
    return curves


def table(found: Mapping[str, Any]) -> str:
    """The result as text: mean +- sd over seeds, the rules, and the paired differences."""
    names = {"auc": "AUC", "auc_abnormal": "abnormal-only", "ap": "AP", "far": "FAR"}
    width = max(len(name) for name in found["arms"]) + 2

    def row(name: str, cells: Sequence[str]) -> str:
        return f"{name:{width}s}" + "".join(f"{cell:>18s}" for cell in cells)

    lines = [row("", [names[m] for m in MEASURES])]
    for name, arm in found["arms"].items():
        lines.append(row(name, ["{mean:.3f} +- {sd:.3f}".format(**arm[m]) for m in MEASURES]))
    for rule, entry in found["rules"].items():
        sign = " (flipped)" if entry["flipped"] else ""
        cells = [f"{entry[m]:.3f}" for m in ("auc", "auc_abnormal")]
        lines.append(row(rule + sign, [*cells, "-", "-"]))
    lines.append("")
    lines.append(f"paired difference to real only (better in so many of {found['seeds']} seeds)")
    for name, arm in list(found["arms"].items())[1:]:
        cells = [
            "{mean:+.3f} +- {sd:.3f} ({wins})".format(**arm["difference"][m]) for m in MEASURES
        ]
        lines.append(f"{name:{width}s}" + "".join(f"{cell:>22s}" for cell in cells))
    counts = found["filter"]
    lines.append("")
    lines.append(f"filter: {counts['kept']} kept, {counts['dropped']} dropped {counts['reasons']}")
    if found["caught"]:
        caught = ", ".join(f"{name} {n} of {all}" for name, (n, all) in found["caught"].items())
        lines.append(f"dropped by what the world planted: {caught}")
    return "\n".join(lines)


def main(_) -> None:
    plan = Plan(
        data=pipeline.settings_from_flags(),
        train=from_flags(config_lib.TrainConfig),
        seeds=flags.FLAGS.seeds,
    )
    found = run(plan)
    print(table(found))
    if found["rendered"]:
        print("The footage is RENDERED by the built-in world: no number here is about real video.")
    print(pathlib.Path(plan.data.plan.out) / "demo.html")


if __name__ == "__main__":
    define_flags(*pipeline.SECTIONS.values(), config_lib.TrainConfig)
    flags.DEFINE_integer("seeds", 4, "Runs of each arm.", 1)
    run_command(main, usage=__doc__)
