"""Studies: many runs of one question, resumable run by run.

    python -m tools.study --study=ped2 --flagfile=configs/ped2.flags --videos=videos.json --out=DIR

detectors: every detector with and without generated videos, on rendered footage and on --videos
(tools/cross_models.py; --seeds, and the flags of training).

ped2: a small real data set. Encodes the videos with the motion encoder, trains on the split of
videos.json with several seeds, then on random splits of 6 abnormal and 4 normal training videos,
and measures frames of each run's test videos beside the trivial rules. The flags of training go
into the flagfile. The last line on standard output is JSON. Killed anywhere, the same command goes
on; a finished run is a folder DIR/runs/NAME with a result.json.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from gvvad_jax import config as config_lib
from gvvad_jax.command import UserError, define_flags, from_flags, run_command, to_flagfile
from gvvad_jax.store import annotations
from gvvad_jax.store.files import read_json, write_atomically
from gvvad_jax.store.reader import Store

MEASURES = ("auc", "auc_abnormal")
# What the detector must beat; it is averaged over the snippets that the detector sees, too.
FLOW_RULES = ("flow_p99", "flow_p99, smoothed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the ped2 study runs.

    Attributes:
      videos: videos.json with a train and a test split, frame annotations for all abnormal videos.
      out: folder of the study.
      seeds: runs on the split of videos.json.
      random_splits: runs on splits drawn at random.
      abnormal_train, normal_train: training videos of a random split; all others are its test.
      snippet_frames, snippet_stride: of the motion encoder.
      train: the training flags; store, annotations, workdir and seed are set for each run.
    """

    videos: str
    out: pathlib.Path
    seeds: int
    random_splits: int
    abnormal_train: int
    normal_train: int
    snippet_frames: int
    snippet_stride: int
    train: config_lib.TrainConfig


def random_split(
    annotated: annotations.Annotations, abnormal_train: int, normal_train: int, number: int
) -> annotations.Annotations:
    """The same videos, so many of each label drawn for training, all others for testing.

    Args:
      annotated: the videos; their own split is of no effect.
      abnormal_train, normal_train: training videos.
      number: of the split; the same number gives the same split.

    Raises:
      UserError: too few videos of a label to leave one for testing.
    """
    rng = np.random.default_rng([number, 6])
    training = set()
    for label, count, name in ((1, abnormal_train, "abnormal"), (0, normal_train, "normal")):
        ids = sorted(v.id for v in annotated.videos.values() if v.label == label)
        if len(ids) <= count:
            raise UserError(
                f"{annotated.path}: expected more than {count} {name} videos, found {len(ids)}; "
                f"lower --{name}_train"
            )
        training.update(rng.choice(ids, count, replace=False).tolist())
    videos = {
        video_id: dataclasses.replace(video, split="train" if video_id in training else "test")
        for video_id, video in annotated.videos.items()
    }
    return annotations.Annotations(videos, annotated.path)


def ped2(plan: Plan) -> dict[str, Any]:
    """Runs or resumes the study; returns what its last line prints (see `summary`).

    Raises:
      UserError: a fault of the videos or the flags, or a folder begun with other flags.
    """
    annotated = annotations.load(plan.videos)
    (plan.out / "splits").mkdir(parents=True, exist_ok=True)
    encoded = _encode(plan)
    rules = _rules(annotated, plan)
    results, baselines_of = {"split": [], "random_splits": []}, {"split": [], "random_splits": []}
    for group, name, seed, split in _runs(annotated, plan):
        path = plan.out / "splits" / f"{group if group == 'split' else name}.json"
        write_atomically(path, (json.dumps(split.to_json(), indent=1) + "\n").encode())
        run_config = dataclasses.replace(
            plan.train,
            store=str(encoded),
            annotations=str(path),
            workdir=str(plan.out / "runs" / name),
            seed=seed,
        )
        results[group].append(finished_run(run_config)["last"])
        baselines_of[group].append(_measure_rules(rules, split))
    return summary(results, baselines_of)


def _runs(annotated: annotations.Annotations, plan: Plan):
    """(group, name, seed, annotations) of each run."""
    for seed in range(plan.seeds):
        yield "split", f"split-{seed:02d}", seed, annotated
    for number in range(plan.random_splits):
        split = random_split(annotated, plan.abnormal_train, plan.normal_train, number)
        yield "random_splits", f"random-{number:02d}", number, split


def _encode(plan: Plan) -> pathlib.Path:
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions

    recipe = EncodeOptions(
        snippet_frames=plan.snippet_frames,
        snippet_stride=plan.snippet_stride,
        captioner="rules" if plan.train.uses_text else "none",
    )
    path = plan.out / "store"
    encoding.encode(plan.videos, path, recipe)
    return path


def _rules(annotated: annotations.Annotations, plan: Plan) -> dict[str, dict[str, np.ndarray]]:
    """Scores of the trivial rules by video, decoded once a study; each frame's and smoothed."""
    from tools import baselines

    path = plan.out / f"rules-{baselines.footage_digest(annotated)}.npz"
    if not path.exists():
        found = baselines.score_videos(annotated, list(annotated.videos.values()))
        buffer = io.BytesIO()
        np.savez(
            buffer, **{f"{i}/{rule}": s for i, rules in found.items() for rule, s in rules.items()}
        )
        write_atomically(path, buffer.getvalue())
    scores: dict[str, dict[str, np.ndarray]] = {video_id: {} for video_id in annotated.videos}
    with np.load(path, allow_pickle=False) as arrays:
        for video_id, of_video in scores.items():
            for rule in baselines.RULES:
                frames = arrays[f"{video_id}/{rule}"]
                of_video[rule] = frames
                of_video[f"{rule}, smoothed"] = baselines.smoothed(
                    frames, plan.snippet_frames, plan.snippet_stride
                )
    return scores


def _measure_rules(
    rules: Mapping[str, Mapping[str, np.ndarray]], split: annotations.Annotations
) -> dict[str, Any]:
    from tools import baselines

    return baselines.measure(rules, split.in_split("test"))


def finished_run(
    config: config_lib.TrainConfig, measures: Sequence[str] = MEASURES
) -> dict[str, Any]:
    """A run's result.json, made unless it is there from the same flags and data.

    Args:
      config: of the run.
      measures: that its last checkpoint must have on the test videos.

    Raises:
      UserError: the run was made of other videos, annotations or decisions, or the store's test
        videos don't allow a measure.
    """
    from gvvad_jax import training as training_

    workdir, ours = pathlib.Path(config.workdir), _made_of(config)
    finished, begun, noted = (workdir / n for n in ("result.json", "config.flags", "made_of.txt"))
    if noted.exists() and noted.read_text(encoding="utf-8") != ours:
        raise UserError(
            f"{workdir}: expected a run of today's videos, annotations and decisions, found one of "
            "others; remove it and the other runs of those, or give another --out"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(noted, ours.encode())
    if finished.exists() and begun.read_text() == to_flagfile(config):
        result = read_json(finished)
    else:
        result = training_.train(config)
    missing = [name for name in measures if (result["last"] or {}).get(name) is None]
    if missing:
        raise UserError(
            f"{config.store}: expected test videos that allow {', '.join(missing)}: of both "
            "labels, with abnormal_frames, some abnormal ones not abnormal throughout; add such "
            "to videos.json and encode again"
        )
    return result


def _made_of(config: config_lib.TrainConfig) -> str:
    """Of all that a result depends on beside flags: stores, annotations, decisions."""
    digest = hashlib.sha256()
    for path in filter(None, f"{config.store},{config.synthetic_store}".split(",")):
        opened = Store(path)
        digest.update(opened.digest().encode() + json.dumps(opened.videos.to_json()).encode())
    for path in filter(None, (config.annotations, config.synthetic_keep)):
        digest.update(pathlib.Path(path).read_bytes())
    return digest.hexdigest()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation (n - 1) over runs."""
    sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 4), "sd": round(float(sd), 4)}


def summary(
    results: Mapping[str, Sequence[Mapping[str, float]]],
    baselines_of: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]],
) -> dict[str, Any]:
    """What a study prints.

    Args:
      results: measures of the runs by group.
      baselines_of: measures of every rule on the same runs' test videos, by group.

    Returns:
      {group: {measure: {"mean", "sd"}, "seeds": runs}}, "baselines": {rule: {group: the same}},
      "difference": {flow rule: {group: {measure: {"mean", "sd", "wins"}}}}, run by run the
      detector's measure less the rule's. sd is over runs, with n - 1.
    """

    def over_runs(value: Callable[[str, int, str], float], group: str) -> dict[str, Any]:
        runs = range(len(results[group]))
        return {m: spread([value(group, run, m) for run in runs]) for m in MEASURES}

    groups = [group for group in results if results[group]]
    found: dict[str, Any] = {
        group: over_runs(lambda g, run, m: results[g][run][m], group)
        | {"seeds": len(results[group])}
        for group in groups
    }
    rules = list(baselines_of[groups[0]][0])
    found["baselines"] = {
        rule: {
            group: over_runs(lambda g, run, m, r=rule: baselines_of[g][run][r][m], group)
            for group in groups
        }
        for rule in rules
    }
    found["difference"] = {}
    for rule in FLOW_RULES:
        found["difference"][rule] = {}
        for group in groups:
            pairs = list(zip(results[group], baselines_of[group], strict=True))
            found["difference"][rule][group] = {
                m: spread([ours[m] - theirs[rule][m] for ours, theirs in pairs])
                | {"wins": sum(ours[m] > theirs[rule][m] for ours, theirs in pairs)}
                for m in MEASURES
            }
    return found


def table(found: Mapping[str, Any]) -> str:
    """The summary as text: AUC / abnormal-only AUC, mean +- sd over runs."""
    groups = [group for group in ("split", "random_splits") if group in found]

    def row(name: str, entry: Mapping[str, Any]) -> str:
        cells = [
            " / ".join("{mean:.3f} +- {sd:.3f}".format(**entry[g][m]) for m in MEASURES)
            for g in groups
        ]
        return f"{name:30s}" + "  ".join(f"{cell:>33s}" for cell in cells)

    lines = [f"{'AUC / abnormal-only':30s}" + "  ".join(f"{g:>33s}" for g in groups)]
    lines.append(row("detector", found))
    lines += [row(rule, entry) for rule, entry in found["baselines"].items()]
    lines += [row(f"detector - {rule}", entry) for rule, entry in found["difference"].items()]
    return "\n".join(lines)


def main(_: Sequence[str]) -> None:
    if not _OUT.value:
        raise UserError("--out: expected a folder for the study, found none; give one")
    found, text = STUDIES[_STUDY.value](
        pathlib.Path(_OUT.value), from_flags(config_lib.TrainConfig)
    )
    path = pathlib.Path(_OUT.value) / "summary.json"
    write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
    print(text, file=sys.stderr)
    print(json.dumps(found))


def _ped2(out: pathlib.Path, train: config_lib.TrainConfig) -> tuple[dict[str, Any], str]:
    if not _VIDEOS.value:
        raise UserError("--videos: expected a videos.json for the study, found none; name one")
    plan = Plan(
        videos=_VIDEOS.value,
        out=out,
        seeds=_SEEDS.value,
        random_splits=_RANDOM_SPLITS.value,
        abnormal_train=_ABNORMAL_TRAIN.value,
        normal_train=_NORMAL_TRAIN.value,
        snippet_frames=_SNIPPET_FRAMES.value,
        snippet_stride=_SNIPPET_STRIDE.value,
        train=train,
    )
    found = ped2(plan)
    return found, table(found)


def _detectors(out: pathlib.Path, train: config_lib.TrainConfig) -> tuple[dict[str, Any], str]:
    from tools import cross_models

    plan = cross_models.Plan(out=out, videos=_VIDEOS.value, seeds=_SEEDS.value, train=train)
    found = cross_models.run(plan)
    return found, cross_models.table(found)


STUDIES = {"ped2": _ped2, "detectors": _detectors}

if __name__ == "__main__":
    define_flags(config_lib.TrainConfig)
    _STUDY = flags.DEFINE_enum("study", "ped2", list(STUDIES), "Which study.")
    _VIDEOS = flags.DEFINE_string("videos", "", "The videos.json.")
    _OUT = flags.DEFINE_string("out", "", "Folder of the study; the same command resumes it.")
    _SEEDS = flags.DEFINE_integer("seeds", 10, "Runs on the split of videos.json.", 1)
    _RANDOM_SPLITS = flags.DEFINE_integer("random_splits", 20, "Runs on random splits.", 0)
    _ABNORMAL_TRAIN = flags.DEFINE_integer("abnormal_train", 6, "Of a random split.", 1)
    _NORMAL_TRAIN = flags.DEFINE_integer("normal_train", 4, "Of a random split.", 1)
    _SNIPPET_FRAMES = flags.DEFINE_integer("snippet_frames", 16, "Frames a snippet.", 1)
    _SNIPPET_STRIDE = flags.DEFINE_integer("snippet_stride", 4, "Frames between starts.", 1)
    run_command(main, usage=__doc__)
