"""Chooses lambda before training (`--lambda_mode=auto`), by the probe. numpy and scipy only.

A set of generated videos (a store) with which the probe's mean AUC isn't higher gets lambda 0: it
isn't trained on. For the others one lambda is chosen among `--lambda_value`, half of it and twice
it, as the weight of generated videos in the probe's regression: on validation videos where there
are enough, else cross-validated by group. `--lambda_value` stays unless another one is better by a
standard error.

A set is judged by the mean and not by its interval: with six abnormal videos no interval excludes
0, and of two choices of which neither is known to be better the likelier one is taken. That it
can't be known is a verdict for `tools.probe`, which decides nothing.

Whole trainings would be the other judge, at a run for each candidate. With ten validation videos of
each label an AUC's standard error is near 0.1, and a detector's AUC differs by 0.02 to 0.15 between
seeds of one lambda, so that a run for each would mostly choose by chance. The regression has no
seed, is fitted at every lambda within seconds, and compares lambdas on the same held-out videos.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from gvvad_jax import metrics, probing, regression
from gvvad_jax.config import TrainConfig
from gvvad_jax.folds import CONFIDENCE
from gvvad_jax.regression import Pools, Regression, Videos
from gvvad_jax.splits import Splits

# The lambdas that are compared, as multiples of --lambda_value.
FACTORS = (0.5, 2.0)
# Held-out videos of each label that validation needs to choose lambda.
MIN_VALIDATION = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What `--lambda_mode=auto` chose.

    Attributes:
      value: lambda of the sets that are trained on; 0 where none is.
      by_set: each set's lambda by its store's path: `value`, or 0 for a set that is left out.
      why: what the choice rests on.
    """

    value: float
    by_set: Mapping[str, float]
    why: str

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `lambda` in result.json."""
        return {"value": self.value, "by_set": dict(self.by_set), "why": self.why}

    def describe(self) -> str:
        """Says what was chosen and why, in one line."""
        left_out = [store for store, value in self.by_set.items() if not value]
        without = f"; {' and '.join(left_out)} left out, lambda 0" if left_out else ""
        return f"--lambda_mode=auto: lambda {self.value:g}{without}: {self.why}"

    def apply(self, splits: Splits, config: TrainConfig) -> tuple[Splits, TrainConfig]:
        """Returns the videos to train on, and the settings to train with.

        A set of lambda 0 isn't drawn at all: its videos would take places in the batches, and part
        in BatchNorm's statistics, without teaching anything. Where a label then has no generated
        video, a fixed share of them can't be drawn, and none is asked for.
        """
        train = [
            m for m in splits.train if m.row.source == "real" or self.by_set[str(m.store.path)]
        ]
        labels = {m.video.label for m in train if m.row.source != "real"}
        share = config.synthetic_share if len(labels) == 2 else None
        fixed = dataclasses.replace(
            config, lambda_mode="fixed", lambda_value=self.value, synthetic_share=share
        )
        return dataclasses.replace(splits, train=train), fixed


class _Difference(NamedTuple):
    """An arm's AUC less another one's on the same held-out videos.

    Attributes:
      mean, error: the difference and its standard error.
      interval: its 95 % confidence interval.
      where: which videos were held out, in words.
    """

    mean: float
    error: float
    interval: tuple[float, float]
    where: str


# Sets of generated videos that join the real ones, and their weight.
_Arm = tuple[Sequence[Videos], float]


def choose(splits: Splits, config: TrainConfig, pools: Pools | None = None) -> Choice:
    """Chooses lambda for each set of generated videos.

    Args:
      splits: the run's videos.
      config: the run's settings: how features are standardised, and the seed of the folds.
      pools: the same videos, if they have been read.
    """
    pools = pools or regression.read(splits, config)
    trial = _Trial(pools, config)
    result = probing.probe(splits, config, repeats=repeats_for(pools), pools=pools)
    notes, left_out = [], set()
    for each, (store, videos) in zip(result.sets, pools.sets.items(), strict=True):
        if result.reason:
            gain = trial.on_validation(([], 1.0), ([videos], 1.0))
        else:
            gain = _by_folds(each, result)
        if gain:
            low, high = gain.interval
            notes.append(
                f"with {store} the probe's AUC changes by {gain.mean:+.3f} [{low:+.3f}, "
                f"{high:+.3f}] {gain.where}"
            )
            if gain.mean <= 0:
                left_out.add(store)
    kept = [videos for store, videos in pools.sets.items() if store not in left_out]
    value = 0.0
    if kept:
        value, why = _best(trial, kept, result.reason, config.lambda_value)
        notes.append(why)
    by_set = {str(store): 0.0 if store in left_out else value for store in pools.sets}
    return Choice(value=value, by_set=by_set, why="; ".join(notes))


def repeats_for(pools: Pools) -> int:
    """Returns how often folds are repeated: less where many videos make them alike, and slow."""
    return int(np.clip(1000 // max(len(pools.real), 1), 2, probing.REPEATS))


def _by_folds(each: probing.SetProbe, result: probing.Probe) -> _Difference | None:
    if each.difference is None or each.interval is None:
        return None
    where = f"in {result.folds} folds over {result.groups} groups of real videos"
    return _Difference(each.difference, 0.0, each.interval, where)


def _best(
    trial: "_Trial", sets: Sequence[Videos], reason: str | None, usual: float
) -> tuple[float, str]:
    """Returns the best lambda of sets that are trained on, and why."""
    others = [factor * usual for factor in FACTORS]
    measured = {
        candidate: trial.on_validation((sets, usual), (sets, candidate))
        or (None if reason else trial.in_folds((sets, usual), (sets, candidate)))
        for candidate in others
    }
    known = {candidate: found for candidate, found in measured.items() if found}
    if len(known) < len(others):
        return usual, (
            f"--lambda_value, because {trial.without_validation()}, and "
            f"{reason or 'no fold and its training videos hold both labels'}"
        )
    best = max(known, key=lambda candidate: known[candidate].mean)
    mean, error, _, where = known[best]
    compared = f"{mean:+.3f} +- {error:.3f} AUC {where}"
    if mean > error:
        return best, f"better in the probe than --lambda_value's {usual:g}, {compared}"
    return usual, (
        f"--lambda_value, since no other is better in the probe by a standard error ({best:g}: "
        f"{compared})"
    )


class _Trial:
    """Compares arms of the probe on the same held-out videos."""

    def __init__(self, pools: Pools, config: TrainConfig):
        self._pools = pools
        self._regression = Regression(config, pools.standardise)
        _, self._held_out = probing.held_out_folds(
            pools.real, probing.FOLDS, repeats_for(pools), config.seed
        )

    def in_folds(self, first: _Arm, second: _Arm) -> _Difference | None:
        """Returns the second arm's mean AUC less the first one's over repeated folds."""
        real = self._pools.real
        differences, ratios = [], []
        for held_V in self._held_out:
            aucs = [self._auc(real[~held_V], arm, real[held_V]) for arm in (first, second)]
            if aucs[0] is not None and aucs[1] is not None:
                differences.append(aucs[1] - aucs[0])
                ratios.append(held_V.sum() / (~held_V).sum())
        count = len(differences)
        if count < 2:
            return None
        # The variance of folds.corrected_interval.
        error = np.sqrt((1 / count + np.mean(ratios)) * np.var(differences, ddof=1))
        groups = len(np.unique(real.groups_V))
        where = f"in {count} folds over {groups} groups of real videos"
        return _difference(float(np.mean(differences)), float(error), count, where)

    def on_validation(self, first: _Arm, second: _Arm) -> _Difference | None:
        """Returns the second arm's AUC less the first one's on the validation videos.

        The standard error is the jackknife's, which leaves out a group at a time.

        Returns:
          The difference; None where validation has too few videos of a label, or a single group of
          them.
        """
        held_out = self._pools.validation
        if min(held_out.counts()) < MIN_VALIDATION:
            return None
        scores = [self._regression.scores(self._pools.real, sets, held_out, weight)
                  for sets, weight in (first, second)]  # fmt: skip
        groups = np.unique(held_out.groups_V)
        differences = []
        for chosen_V in (
            np.ones(len(held_out), bool),
            *(held_out.groups_V != group for group in groups),
        ):
            labels_V = held_out.labels_V[chosen_V]
            aucs = [None if s is None else metrics.roc_auc(s[chosen_V], labels_V) for s in scores]
            if aucs[0] is None or aucs[1] is None:
                return None
            differences.append(aucs[1] - aucs[0])
        count = len(groups)
        error = np.sqrt((count - 1) * np.var(differences[1:]))
        where = f"on {len(held_out)} validation videos"
        return _difference(differences[0], float(error), count, where)

    def without_validation(self) -> str:
        """Says why `on_validation` can't compare."""
        if min(self._pools.validation.counts()) < MIN_VALIDATION:
            return f"fewer than {MIN_VALIDATION} validation videos of a label are held out"
        return "all validation videos of a label are of one group"

    def _auc(self, train: Videos, arm: _Arm, held_out: Videos) -> float | None:
        sets, weight = arm
        scores_V = self._regression.scores(train, sets, held_out, weight)
        return None if scores_V is None else metrics.roc_auc(scores_V, held_out.labels_V)


def _difference(mean: float, error: float, count: int, where: str) -> _Difference:
    half = float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error  # Student's t.
    return _Difference(mean, error, (mean - half, mean + half), where)
