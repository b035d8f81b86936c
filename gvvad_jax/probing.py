"""A probe: which generated videos help, known before training. numpy and scipy only.

A logistic regression on each video's mean features stands in for a detector. It is cross-validated
over groups of real videos, without and with each set of generated ones, which join the training
folds only. It takes seconds, overfits small sets less than detectors do, and has no settings.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from gvvad_jax import metrics
from gvvad_jax.config import TrainConfig
from gvvad_jax.folds import corrected_interval, group_folds
from gvvad_jax.splits import Member, Splits
from gvvad_jax.standardisation import Standardisation, standardises

FOLDS, REPEATS = 5, 10
# Groups of each label that a verdict needs: with fewer, repeated folds repeat the same few videos.
MIN_GROUPS = 4
# Inverse penalty of the regression, where rows have a mean squared norm of 1 and losses a mean.
STRENGTH = 1e4
# Of Newton's method, which takes about ten.
MAX_ITERATIONS = 100
# Snippets that are read at a time.
_READ_SNIPPETS = 1024
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


@dataclasses.dataclass(frozen=True, eq=False)
class Videos:
    """Videos by what the probe needs of them: V labels and groups, and sums over their rows."""

    labels_V: np.ndarray
    groups_V: np.ndarray
    rows_V: np.ndarray
    sums_VxD: np.ndarray
    squares_VxD: np.ndarray

    def __len__(self) -> int:
        return len(self.labels_V)

    def __getitem__(self, chosen_V: np.ndarray) -> "Videos":
        arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Videos(*(array[chosen_V] for array in arrays))

    def counts(self) -> tuple[int, int]:
        """Returns the numbers of normal and of abnormal videos."""
        return int((self.labels_V == 0).sum()), int((self.labels_V == 1).sum())

    def without(self, groups_V: np.ndarray) -> "Videos":
        """Returns the videos of other groups than these."""
        return self[~np.isin(self.groups_V, groups_V)]


@dataclasses.dataclass(frozen=True, eq=False)
class Pools:
    """The videos of a run as the regression takes them.

    Attributes:
      real: the real training videos.
      validation, test: the videos held out.
      sets: the generated training videos by their store.
      standardise: whether the run standardises its features.
    """

    real: Videos
    validation: Videos
    test: Videos
    sets: Mapping[pathlib.Path, Videos]
    standardise: bool


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
    pools = pools or read(splits, config)
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
    pools = pools or read(splits, config)
    sets = list(pools.sets.values())
    fit = Regression(config, pools.standardise)
    return Baseline(
        auc=fit.auc(pools.real, sets, pools.test), real_auc=fit.auc(pools.real, [], pools.test)
    )


def read(splits: Splits, config: TrainConfig) -> Pools:
    """Reads the rows of a run's videos, once, but for those that only lambda learns from."""
    real = [m for m in splits.train if m.row.source == "real"]
    by_store: dict[pathlib.Path, list[Member]] = {}
    for member in splits.train:
        if member.row.source != "real":
            by_store.setdefault(member.store.path, []).append(member)
    uses = [real, splits.validation, splits.test, *by_store.values()]
    names = iter(_group_names([member for use in uses for member in use]))
    dim = splits.train[0].store.manifest.dim
    videos, validation, test, *sets = (_pool(use, [next(names) for _ in use], dim) for use in uses)
    return Pools(
        real=videos,
        validation=validation,
        test=test,
        sets=dict(zip(by_store, sets, strict=True)),
        standardise=standardises(splits.train, config),
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


def _group_names(members: Sequence[Member]) -> list[str]:
    """Names each video's group; groups that share a video's rows are one."""
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while (parent := parents.setdefault(node, node)) != node:
            node = parent
        return node

    for member in members:
        if member.row.sha256:
            parents[root(("rows", member.row.sha256))] = root(("group", member.video.kin))
    return [root(("group", member.video.kin))[1] for member in members]


def _pool(members: Sequence[Member], groups: Sequence[str], dim: int) -> Videos:
    """Reads videos' rows once, and keeps their numbers, sums and sums of squares."""
    rows_V = np.zeros(len(members))
    sums_VxD, squares_VxD = np.zeros((2, len(members), dim))
    for i, member in enumerate(members):
        visual_TxNxD = member.store.visual(member.video.id)
        for start in range(0, len(visual_TxNxD), _READ_SNIPPETS):
            rows_MxD = np.asarray(visual_TxNxD[start : start + _READ_SNIPPETS], np.float64)
            rows_MxD = rows_MxD.reshape(-1, dim)
            rows_V[i] += len(rows_MxD)
            sums_VxD[i] += rows_MxD.sum(axis=0)
            squares_VxD[i] += np.square(rows_MxD).sum(axis=0)
    labels_V = np.array([member.video.label for member in members], int)
    return Videos(labels_V, np.array(groups, object), rows_V, sums_VxD, squares_VxD)


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


@dataclasses.dataclass(frozen=True)
class Regression:
    """The regression, and how its features are standardised.

    Attributes:
      config: the run's settings.
      standardise: whether features are standardised at all.
    """

    config: TrainConfig
    standardise: bool

    def auc(self, train: Videos, sets: Sequence[Videos], held_out: Videos) -> float | None:
        """Returns the AUC of `scores`; None where training or held-out videos lack a label."""
        scores_V = self.scores(train, sets, held_out)
        return None if scores_V is None else metrics.roc_auc(scores_V, held_out.labels_V)

    def scores(
        self, train: Videos, sets: Sequence[Videos], held_out: Videos, weight: float = 1.0
    ) -> np.ndarray | None:
        """Trains on real and generated videos and returns the scores [V] of the held-out ones.

        Generated videos of a held-out group are left out. The others weigh `weight` against a real
        one's 1.

        Returns:
          The scores; None where training or held-out videos lack a label.
        """
        domains = [train, *(each.without(held_out.groups_V) for each in sets)]
        domains = [domain for domain in domains if len(domain)]
        labels_V = np.concatenate([np.zeros(0, int), *(domain.labels_V for domain in domains)])
        if len(np.unique(labels_V)) < 2 or 0 in held_out.counts():
            return None
        standards = self._standards(domains)
        rows = [
            _rows(domain, standard) for domain, standard in zip(domains, standards, strict=True)
        ]
        # As in scoring, the first domain's statistics, real videos' where there are any.
        held_VxD = _rows(held_out, standards[0])
        centre_D = rows[0].mean(axis=0)
        size = math.sqrt(np.square(rows[0] - centre_D).sum(axis=1).mean()) or 1.0
        train_VxD = (np.concatenate(rows) - centre_D) / size
        counts_V = np.ones(len(labels_V))
        counts_V[len(train) :] = weight
        weights_D, _ = fit_logistic(train_VxD, labels_V, counts_V=counts_V)
        scores_V: np.ndarray = (held_VxD - centre_D) / size @ weights_D
        return scores_V

    def _standards(self, domains: Sequence[Videos]) -> list[Standardisation]:
        if not self.standardise:
            return [Standardisation()] * len(domains)
        if self.config.standardise_by == "real":
            return [statistics([domains[0]])] * len(domains)
        return [statistics(_by_label(domain)) for domain in domains]


def _by_label(videos: Videos) -> list[Videos]:
    return [videos[videos.labels_V == label] for label in np.unique(videos.labels_V)]


def statistics(parts: Sequence[Videos]) -> Standardisation:
    """Statistics of videos' rows; every part of the videos counts the same, as in a run."""
    moments_2xD = np.mean(
        [np.stack([p.sums_VxD.sum(axis=0), p.squares_VxD.sum(axis=0)]) / p.rows_V.sum()
         for p in parts], axis=0,
    )  # fmt: skip
    return Standardisation.from_moments(*moments_2xD)


def _rows(videos: Videos, standard: Standardisation) -> np.ndarray:
    """Returns the mean of each video's standardised rows, float64 [V, D]."""
    return standard.apply(videos.sums_VxD / videos.rows_V[:, None]).astype(np.float64)


def fit_logistic(
    rows_VxD: np.ndarray,
    labels_V: np.ndarray,
    strength: float = STRENGTH,
    counts_V: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Fits a logistic regression in which each label counts half.

    It minimises the mean over labels of their videos' mean cross-entropy, plus |weights|^2 /
    (2 strength); the intercept isn't penalised.

    Args:
      rows_VxD: a row of features for each video, about centred and of a size near 1.
      labels_V: 0 or 1 for each video; both must occur.
      strength: inverse of the penalty.
      counts_V: what each video counts in its label's mean; all the same for None.

    Returns:
      (weights [D], intercept).
    """
    counts_V = np.ones(len(labels_V)) if counts_V is None else counts_V
    share_V = 0.5 * counts_V / np.bincount(labels_V, counts_V)[labels_V]
    signs_V = 2.0 * labels_V - 1.0
    # The best weights lie in the rows' span, which few videos make a small one.
    basis_DxR = None
    if rows_VxD.shape[0] < rows_VxD.shape[1]:
        basis_DxR = np.linalg.qr(rows_VxD.T)[0]
        rows_VxD = rows_VxD @ basis_DxR
    inputs_VxP = np.column_stack([np.ones(len(rows_VxD)), rows_VxD])
    penalty_P = np.append(0.0, np.full(rows_VxD.shape[1], 1 / strength))

    def loss(parameters_P: np.ndarray) -> float:
        losses_V = np.logaddexp(0.0, -signs_V * (inputs_VxP @ parameters_P))
        return float(share_V @ losses_V + penalty_P @ np.square(parameters_P) / 2)

    # Newton's method: the loss is convex, so that a step that lowers it enough is always found.
    parameters_P = np.zeros(len(penalty_P))
    for _ in range(MAX_ITERATIONS):
        wrong_V = special.expit(-signs_V * (inputs_VxP @ parameters_P))
        gradient_P = penalty_P * parameters_P - (signs_V * share_V * wrong_V) @ inputs_VxP
        curvature_V = share_V * wrong_V * (1 - wrong_V)
        hessian_PxP = (inputs_VxP.T * curvature_V) @ inputs_VxP + np.diag(penalty_P + 1e-12)
        step_P = np.linalg.solve(hessian_PxP, gradient_P)
        before, decrease, size = loss(parameters_P), float(gradient_P @ step_P), 1.0
        while loss(parameters_P - size * step_P) > before - 1e-4 * size * decrease and size > 1e-6:
            size /= 2
        parameters_P = parameters_P - size * step_P
        if decrease < 1e-12:
            break
    weights_R = parameters_P[1:]
    return weights_R if basis_DxR is None else basis_DxR @ weights_R, float(parameters_P[0])
