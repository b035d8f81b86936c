"""A probe: which generated videos help, known before training. numpy and scipy only.

The regression of regression.py is cross-validated over groups of real videos, without and with each
set of generated ones, which join the training folds only.
"""

import dataclasses
from typing import Any

import numpy as np

from gvvad_jax import regression
from gvvad_jax.config import TrainConfig
from gvvad_jax.folds import corrected_interval, group_folds
from gvvad_jax.regression import Pools, Regression, Videos
from gvvad_jax.splits import Splits

FOLDS, REPEATS = 5, 10
# Groups of each label that a verdict needs: with fewer, repeated folds repeat the same few videos.
MIN_GROUPS = 4
HELPS, HURTS, UNKNOWN = "helps", "hurts", "can't tell"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetProbe:
    """What a set of generated videos does to the regression.

    Attributes:
      store: the path of the set's store, as it was given.
      normal: number of its normal videos.
      abnormal: number of its abnormal videos.
      auc: mean AUC of the held-out folds with the set; None if it can't be measured.
      difference: mean of `auc` minus that of real videos only, fold by fold.
      interval: its corrected 95 % confidence interval; None for fewer than two folds.
      verdict: helps or hurts where the interval excludes 0, else can't tell.
      test_auc: AUC of the test videos, trained on all real training videos and the set.
    """

    store: str
    normal: int
    abnormal: int
    auc: float | None
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str
    test_auc: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """What the regression reaches on real videos, alone and with each set of generated ones.

    Attributes:
      normal: number of normal real training videos.
      abnormal: number of abnormal ones.
      groups: number of groups that the real training videos form.
      folds: number of held-out folds that were measured, over all repeats.
      auc: their mean AUC, trained on real videos only; None if it can't be measured.
      test_auc: AUC of the test videos, trained on all real training videos.
      reason: why the sets have no verdict; None if they have one.
      sets: one for each set of generated videos, in the stores' order.
    """

    normal: int
    abnormal: int
    groups: int
    folds: int
    auc: float | None
    test_auc: float | None
    reason: str | None
    sets: tuple[SetProbe, ...]

    @property
    def losing(self) -> tuple[str, ...]:
        """The stores whose videos make the regression worse."""
        return tuple(each.store for each in self.sets if each.verdict == HURTS)

    def to_json(self) -> dict[str, Any]:
        """Returns the probe's fields, numbers rounded to four digits."""
        return _rounded(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the regression reaches on a run's test videos: what training has to beat.

    Attributes:
      auc: video-level AUC, trained on all of the run's training videos; None if it can't be
        measured.
      real_auc: the same, trained on the real ones alone.
    """

    auc: float | None
    real_auc: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, rounded to four digits."""
        return _rounded(dataclasses.asdict(self))

    def describe(self, video_auc: float | None) -> str | None:
        """Says what training gains over the regression, in one line; None if that is unknown.

        Args:
          video_auc: video-level AUC of the trained detector on the same test videos.
        """
        if video_auc is None or self.auc is None:
            return None
        gain = video_auc - self.auc
        alone = "-" if self.real_auc is None else f"{self.real_auc:.3f}"
        return (
            f"video AUC {video_auc:.3f}: training {'gains' if gain >= 0 else 'loses'} "
            f"{abs(gain):.3f} {'over' if gain >= 0 else 'to'} a logistic regression on mean "
            f"features ({self.auc:.3f}; on real videos alone {alone})"
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def probe(
    splits: Splits,
    config: TrainConfig,
    *,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    pools: Pools | None = None,
) -> Probe:
    """Measures a logistic regression on a run's videos, without and with its generated ones.

    A generated video never trains where a real video of its group, or one with the same rows, is
    held out. Features are standardised as the run's, by the statistics of the training folds alone.

    Args:
      splits: the run's videos. Generated videos form one set for each store.
      config: the run's settings: how features are standardised, and the seed of the folds.
      folds: folds of each repeat; fewer where a label has fewer groups.
      repeats: how many times the videos are divided into folds.
      pools: the same videos, if they have been read.
    """
    pools = pools or regression.read(splits, config)
    videos, test, sets = pools.real, pools.test, pools.sets
    fit = Regression(config, pools.standardise)
    reason, held_out = held_out_folds(videos, folds, repeats, config.seed)
    # The first arm is without a set.
    arms = [[], *([each] for each in sets.values())]
    aucs_AxJ = np.array(
        [[fit.auc(videos[~held_V], arm, videos[held_V]) for held_V in held_out]
         for arm in arms], float,
    ).reshape(len(arms), -1)  # fmt: skip
    test_aucs_A = [fit.auc(videos, arm, test) for arm in arms]
    measured_J = ~np.isnan(aucs_AxJ).any(axis=0)
    aucs_AxJ = aucs_AxJ[:, measured_J]
    held_out = [held_V for held_V, measured in zip(held_out, measured_J, strict=True) if measured]
    if not held_out:
        reason = reason or "no fold and its training videos hold both labels"
    ratio = float(np.mean([held_V.sum() / (~held_V).sum() for held_V in held_out] or [0.0]))
    results = [
        _set_probe(str(path), each, reason, aucs_AxJ[[0, arm]], ratio, test_aucs_A[arm])
        for arm, (path, each) in enumerate(sets.items(), start=1)
    ]
    normal, abnormal = videos.counts()
    return Probe(
        normal=normal,
        abnormal=abnormal,
        groups=len(np.unique(videos.groups_V)),
        folds=len(held_out),
        auc=_mean(aucs_AxJ[0]),
        test_auc=test_aucs_A[0],
        reason=reason,
        sets=tuple(results),
    )


def baseline(splits: Splits, config: TrainConfig, pools: Pools | None = None) -> Baseline:
    """Measures a logistic regression on a run's test videos, to print beside its video-level AUC.

    It costs one pass over the stores and two fits, so fractions of a second for small runs.

    Args:
      splits: the run's videos.
      config: the run's settings: how features are standardised.
      pools: the same videos, if they have been read.
    """
    pools = pools or regression.read(splits, config)
    sets = list(pools.sets.values())
    fit = Regression(config, pools.standardise)
    return Baseline(
        auc=fit.auc(pools.real, sets, pools.test), real_auc=fit.auc(pools.real, [], pools.test)
    )


def _set_probe(
    store: str,
    videos: Videos,
    reason: str | None,
    aucs_2xJ: np.ndarray,
    ratio: float,
    test_auc: float | None,
) -> SetProbe:
    """Compares the folds' AUCs without and with a set; no verdict where there is a reason."""
    differences_J = aucs_2xJ[1] - aucs_2xJ[0]
    interval = corrected_interval(differences_J, ratio)
    if interval is not None:  # No difference of two AUCs is larger.
        interval = max(interval[0], -1.0), min(interval[1], 1.0)
    normal, abnormal = videos.counts()
    return SetProbe(
        store=store,
        normal=normal,
        abnormal=abnormal,
        auc=_mean(aucs_2xJ[1]),
        difference=_mean(differences_J),
        interval=interval,
        verdict=UNKNOWN if reason else _verdict(interval),
        test_auc=test_auc,
    )


def _mean(values_J: np.ndarray) -> float | None:
    return float(values_J.mean()) if len(values_J) else None


def _verdict(interval: tuple[float, float] | None) -> str:
    low, high = interval or (0.0, 0.0)
    return HELPS if low > 0 else HURTS if high < 0 else UNKNOWN


def held_out_folds(
    videos: Videos, folds: int, repeats: int, seed: int
) -> tuple[str | None, list[np.ndarray]]:
    """Divides videos into stratified folds by group, several times.

    Returns:
      (why no verdict can be given, or None; bool [V] for each fold: which videos are held out).
    """
    fewest, label = min(
        (len(np.unique(videos.groups_V[videos.labels_V == label])), name)
        for label, name in enumerate(("normal", "abnormal"))
    )
    reason = None
    if fewest < MIN_GROUPS:
        reason = (
            f"the {label} real training videos form {fewest} groups, and a verdict needs "
            f"{MIN_GROUPS} of each label"
        )
    folds = min(folds, fewest)
    if folds < 2:
        return reason, []
    held_out = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, 5, repeat])
        folds_V = group_folds(videos.labels_V, videos.groups_V, folds, rng)
        held_out += [folds_V == fold for fold in range(folds)]
    return reason, held_out
