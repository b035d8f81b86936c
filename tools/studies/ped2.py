"""The ped2 study: a detector on a small real data set, against rules that learn nothing.

Encodes the videos with the motion encoder, trains on the split of videos.json with several seeds,
then on random splits, and measures frames of each run's test videos beside the baselines.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError, option
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import annotations
from gvvad_jax.store.files import write_json
from tools.studies import runs, statistics
from tools.studies.runs import MEASURES

# The baselines that the detector has to beat; one is averaged over snippets like the detector.
FLOW_RULES = ("flow_p99", "flow_p99, smoothed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ped2Study(runs.Study):
    """The ped2 study; each field is a flag.

    `videos` needs a train and a test split, and frame annotations for all abnormal videos. A random
    split draws its training videos; all others are its test videos.
    """

    random_splits: int = option(20, "Number of runs on random splits, one each.", low=0)
    abnormal_train: int = option(6, "Abnormal training videos of a random split.", low=1)
    normal_train: int = option(4, "Normal training videos of a random split.", low=1)
    snippet_frames: int = option(16, "Frames of a snippet, for the motion encoder.", low=1)
    snippet_stride: int = option(4, "Frames between the starts of two snippets.", low=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.videos:
            raise UserError("--videos: expected a videos.json for the study, found none; name one")


def random_split(
    annotated: annotations.Annotations, abnormal_train: int, normal_train: int, number: int
) -> annotations.Annotations:
    """Draws training videos of each label at random; all other videos are for testing.

    Groups that videos.json names are drawn whole, so that none is both trained and tested on.

    Args:
      annotated: the videos; their own split has no effect.
      abnormal_train: number of abnormal training videos.
      normal_train: number of normal training videos.
      number: number of the split, its seed.

    Raises:
      UserError: too few videos of a label to leave one for testing, or groups that don't make up
        the numbers.
    """
    rng = np.random.default_rng([number, 6])
    training: set[str] = set()
    for label, count, name in ((1, abnormal_train, "abnormal"), (0, normal_train, "normal")):
        ids = sorted(v.id for v in annotated.videos.values() if v.label == label)
        if len(ids) <= count:
            raise UserError(
                f"{annotated.path}: expected more than {count} {name} videos, found {len(ids)}; "
                f"lower --{name}_train"
            )
        if all(video.group is None for video in annotated.videos.values()):
            training.update(rng.choice(ids, count, replace=False).tolist())
    if not training:
        training = _whole_groups(annotated, (normal_train, abnormal_train), rng)
    videos = {
        video_id: dataclasses.replace(video, split="train" if video_id in training else "test")
        for video_id, video in annotated.videos.items()
    }
    return annotations.Annotations(videos, annotated.path)


def _whole_groups(
    annotated: annotations.Annotations, wanted: tuple[int, int], rng: np.random.Generator
) -> set[str]:
    """Draws groups at random that together have the wanted numbers of normal and abnormal videos.

    Raises:
      UserError: no hundred random orders make up these numbers.
    """
    groups: dict[str, list[annotations.VideoAnnotation]] = {}
    for video in annotated.videos.values():
        groups.setdefault(video.kin, []).append(video)
    for _ in range(100):
        left, drawn = np.array(wanted), set[str]()
        for name in rng.permutation(sorted(groups)).tolist():
            counts = np.bincount([video.label for video in groups[name]], minlength=2)
            if (counts <= left).all():
                left -= counts
                drawn.update(video.id for video in groups[name])
        if not left.any():
            return drawn
    raise UserError(
        f"{annotated.path}: expected groups that make up {wanted[0]} normal and {wanted[1]} "
        "abnormal training videos, found none in a hundred draws; change --abnormal_train or "
        "--normal_train"
    )


def run(study: Ped2Study, train: TrainConfig) -> dict[str, Any]:
    """Runs or resumes the study; returns its `summary`.

    Args:
      study: the study.
      train: training flags; store, annotations, workdir and seed are set for each run.

    Raises:
      UserError: a fault of the videos or the flags, or a folder that was begun with other flags.
    """
    from tools.studies import baselines

    annotated = annotations.load(study.videos)
    (study.folder / "splits").mkdir(parents=True, exist_ok=True)
    store_path = _encode(study, train)
    rules = _rules(annotated, study)
    results: dict[str, list[Any]] = {"split": [], "random_splits": []}
    rule_results: dict[str, list[Any]] = {"split": [], "random_splits": []}
    for group, name, seed, split in _splits(annotated, study):
        path = study.folder / "splits" / f"{group if group == 'split' else name}.json"
        write_json(path, split.to_json())
        config = dataclasses.replace(
            train,
            store=str(store_path),
            annotations=str(path),
            workdir=str(study.folder / "runs" / name),
            seed=seed,
        )
        results[group].append(runs.finished_run(config)["last"])
        rule_results[group].append(baselines.measure(rules, split.in_split("test")))
    return summary(results, rule_results)


def _splits(
    annotated: annotations.Annotations, study: Ped2Study
) -> Iterator[tuple[str, str, int, annotations.Annotations]]:
    """Group, name, seed and annotations of each run."""
    for seed in range(study.seeds):
        yield "split", f"split-{seed:02d}", seed, annotated
    for number in range(study.random_splits):
        split = random_split(annotated, study.abnormal_train, study.normal_train, number)
        yield "random_splits", f"random-{number:02d}", number, split


def _encode(study: Ped2Study, train: TrainConfig) -> pathlib.Path:
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions

    recipe = EncodeOptions(
        snippet_frames=study.snippet_frames,
        snippet_stride=study.snippet_stride,
        captioner="rules" if train.uses_text else "none",
    )
    path = study.folder / "store"
    encoding.encode(study.videos, path, recipe)
    return path


def _rules(
    annotated: annotations.Annotations, study: Ped2Study
) -> dict[str, dict[str, np.ndarray]]:
    """Scores of the baselines by video: of single frames, and averaged over snippets."""
    from tools.studies import baselines

    videos = list(annotated.videos.values())
    scores: dict[str, dict[str, np.ndarray]] = {}
    for video_id, rules in runs.baseline_scores(annotated, videos, study.folder / "rules").items():
        scores[video_id] = {}
        for rule, scores_F in rules.items():
            scores[video_id][rule] = scores_F
            scores[video_id][f"{rule}, smoothed"] = baselines.smoothed(
                scores_F, study.snippet_frames, study.snippet_stride
            )
    return scores


def summary(
    results: Mapping[str, Sequence[statistics.Measures]],
    rule_results: Mapping[str, Sequence[Mapping[str, statistics.Measures]]],
) -> dict[str, Any]:
    """Summarises the runs.

    Args:
      results: measures of the runs by group.
      rule_results: measures of every baseline on the same runs' test videos, by group.

    Returns:
      {group: {measure: {"mean", "sd"}, "seeds": number of runs}}, "baselines": {rule: {group: the
      same}}, "difference": {flow rule: {group: {measure: statistics.paired}}}, the detector's
      measure minus the rule's, run by run.
    """
    groups = [group for group in results if results[group]]

    def rule_runs(rule: str, group: str) -> list[statistics.Measures]:
        return [measured[rule] for measured in rule_results[group]]

    summarised: dict[str, Any] = {
        group: statistics.spreads(results[group], MEASURES) | {"seeds": len(results[group])}
        for group in groups
    }
    summarised["baselines"] = {
        rule: {group: statistics.spreads(rule_runs(rule, group), MEASURES) for group in groups}
        for rule in rule_results[groups[0]][0]
    }
    summarised["difference"] = {
        rule: {
            group: statistics.paired_measures(results[group], rule_runs(rule, group), MEASURES)
            for group in groups
        }
        for rule in FLOW_RULES
    }
    return summarised
