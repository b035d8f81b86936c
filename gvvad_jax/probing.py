"""A probe: which generated videos help, known before training. numpy and scipy only.

A logistic regression on each video's mean features stands in for a detector. It is cross-validated
over groups of real videos, without and with each set of generated ones, which join the training
folds only. It takes seconds, overfits small sets less than detectors do, and has no settings.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from gvvad_jax import metrics
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import Member, Splits
from gvvad_jax.standardisation import Standardisation, standardises

FOLDS, REPEATS = 5, 10
CONFIDENCE = 0.95
# Groups of each label that a verdict needs: with fewer, repeated folds repeat the same few videos.
MIN_GROUPS = 4
# Inverse penalty of the regression, where rows have a mean squared norm of 1 and losses a mean.
STRENGTH = 1e4
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


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


@dataclasses.dataclass(frozen=True, eq=False)
class _Videos:
    """Videos by what the probe needs of them: V labels and groups, and sums over their rows."""

    labels_V: np.ndarray
    groups_V: np.ndarray
    rows_V: np.ndarray
    sums_VxD: np.ndarray
    squares_VxD: np.ndarray

    def __len__(self) -> int:
        return len(self.labels_V)

    def __getitem__(self, chosen_V: np.ndarray) -> "_Videos":
        arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
        return _Videos(*(array[chosen_V] for array in arrays))

    def counts(self) -> tuple[int, int]:
        """Returns the numbers of normal and of abnormal videos."""
        return int((self.labels_V == 0).sum()), int((self.labels_V == 1).sum())

    def without(self, groups_V: np.ndarray) -> "_Videos":
        """Returns the videos of other groups than these."""
        return self[~np.isin(self.groups_V, groups_V)]


def probe(
    splits: Splits, config: TrainConfig, *, folds: int = FOLDS, repeats: int = REPEATS
) -> Probe:
    """Measures a logistic regression on a run's videos, without and with its generated ones.

    A generated video never trains where a real video of its group, or one with the same rows, is
    held out. Features are standardised as the run's, by the statistics of the training folds alone.

    Args:
      splits: the run's videos. Generated videos form one set for each store.
      config: the run's settings: how features are standardised, and the seed of the folds.
      folds: folds of each repeat; fewer where a label has fewer groups.
      repeats: how many times the videos are divided into folds.
    """
    real = [m for m in splits.train if m.row.source == "real"]
    by_store: dict[pathlib.Path, list[Member]] = {}
    for member in splits.train:
        if member.row.source != "real":
            by_store.setdefault(member.store.path, []).append(member)
    uses = [real, splits.test, *by_store.values()]
    names = iter(_group_names([member for use in uses for member in use]))
    dim = splits.train[0].store.manifest.dim
    videos, test, *sets = (_pool(use, [next(names) for _ in use], dim) for use in uses)
    fit = _Arm(config, standardises(splits.train, config))
    reason, held_out = _held_out_folds(videos, folds, repeats, config.seed)
    # The first arm is without a set.
    aucs_AxJ = np.array(
        [[fit.auc(videos[~held_V], arm, videos[held_V]) for held_V in held_out]
         for arm in (None, *sets)], float,
    ).reshape(1 + len(sets), -1)  # fmt: skip
    test_aucs_A = [fit.auc(videos, arm, test) for arm in (None, *sets)]
    measured_J = ~np.isnan(aucs_AxJ).any(axis=0)
    aucs_AxJ = aucs_AxJ[:, measured_J]
    held_out = [held_V for held_V, measured in zip(held_out, measured_J, strict=True) if measured]
    if not held_out:
        reason = reason or "no fold and its training videos hold both labels"
    ratio = float(np.mean([held_V.sum() / (~held_V).sum() for held_V in held_out] or [0.0]))
    results = [
        _set_probe(str(path), each, reason, aucs_AxJ[[0, arm]], ratio, test_aucs_A[arm])
        for arm, (path, each) in enumerate(zip(by_store, sets, strict=True), start=1)
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


def _set_probe(
    store: str,
    videos: _Videos,
    reason: str | None,
    aucs_2xJ: np.ndarray,
    ratio: float,
    test_auc: float | None,
) -> SetProbe:
    """Compares the folds' AUCs without and with a set; no verdict where there is a reason."""
    differences_J = aucs_2xJ[1] - aucs_2xJ[0]
    interval = corrected_interval(differences_J, ratio)
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


def corrected_interval(differences_J: np.ndarray, ratio: float) -> tuple[float, float] | None:
    """Confidence interval of the mean of J differences over repeated folds.

    Folds share training videos, so that their differences are correlated. The corrected resampled
    t interval therefore takes (1 / J + ratio) s^2 for the mean's variance (Nadeau and Bengio,
    "Inference for the Generalization Error", 2003; for repeated folds, Bouckaert and Frank, 2004).

    Args:
      differences_J: the differences.
      ratio: held-out videos over training videos of a fold.

    Returns:
      (low, high); None for fewer than two differences.
    """
    count = len(differences_J)
    if count < 2:
        return None
    mean, variance = float(np.mean(differences_J)), float(np.var(differences_J, ddof=1))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    half = quantile * math.sqrt((1 / count + ratio) * variance)
    return mean - half, mean + half


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


def _pool(members: Sequence[Member], groups: Sequence[str], dim: int) -> _Videos:
    """Reads videos' rows once, and keeps their numbers, sums and sums of squares."""
    rows_V = np.zeros(len(members))
    sums_VxD, squares_VxD = np.zeros((2, len(members), dim))
    for i, member in enumerate(members):
        rows_MxD = np.asarray(member.store.visual(member.video.id), np.float64).reshape(-1, dim)
        rows_V[i] = len(rows_MxD)
        sums_VxD[i], squares_VxD[i] = rows_MxD.sum(axis=0), np.square(rows_MxD).sum(axis=0)
    labels_V = np.array([member.video.label for member in members], int)
    return _Videos(labels_V, np.array(groups, object), rows_V, sums_VxD, squares_VxD)


def _held_out_folds(
    videos: _Videos, folds: int, repeats: int, seed: int
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


def group_folds(
    labels_V: np.ndarray, groups_V: np.ndarray, folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Divides videos into folds of about equal shares of each label; groups stay whole.

    The largest groups are placed first, in random order among equals, each in the fold that keeps
    the folds' shares of the labels most even.

    Args:
      labels_V: 0 or 1 for each video.
      groups_V: name of each video's group.
      folds: number of folds.
      rng: decides the order of groups of a size.

    Returns:
      int [V], the fold of each video.
    """
    _, group_V = np.unique(groups_V, return_inverse=True)
    counts_Gx2 = np.zeros((group_V.max() + 1, 2))
    np.add.at(counts_Gx2, (group_V, labels_V), 1)
    shares_Gx2 = counts_Gx2 / np.maximum(counts_Gx2.sum(axis=0), 1)
    order = rng.permutation(len(counts_Gx2))
    order = order[np.argsort(-counts_Gx2[order].sum(axis=1), kind="stable")]
    fold_G = np.zeros(len(counts_Gx2), int)
    filled_Fx2 = np.zeros((folds, 2))
    for group in order:
        # What the sum of squared shares grows by, then the smaller fold.
        growth_F = np.round((filled_Fx2 * shares_Gx2[group]).sum(axis=1), 12)
        fold = min(range(folds), key=lambda f: (growth_F[f], round(filled_Fx2[f].sum(), 12)))
        fold_G[group] = fold
        filled_Fx2[fold] += shares_Gx2[group]
    return fold_G[group_V]


@dataclasses.dataclass(frozen=True)
class _Arm:
    """One way of training: how features are standardised.

    Attributes:
      config: the run's settings.
      standardise: whether features are standardised at all.
    """

    config: TrainConfig
    standardise: bool

    def auc(self, train: _Videos, generated: _Videos | None, held_out: _Videos) -> float | None:
        """Trains on real and generated videos and returns the AUC of the held-out ones.

        Generated videos of a held-out group are left out.

        Returns:
          The AUC; None where training or held-out videos lack a label.
        """
        domains = [train] if len(train) else []
        if generated is not None:
            generated = generated.without(held_out.groups_V)
            domains += [generated] if len(generated) else []
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
        weights_D, _ = fit_logistic(train_VxD, labels_V)
        return metrics.roc_auc((held_VxD - centre_D) / size @ weights_D, held_out.labels_V)

    def _standards(self, domains: Sequence[_Videos]) -> list[Standardisation]:
        if not self.standardise:
            return [Standardisation()] * len(domains)
        if self.config.standardise_by == "real":
            return [_statistics([domains[0]])] * len(domains)
        return [_statistics(_by_label(domain)) for domain in domains]


def _by_label(videos: _Videos) -> list[_Videos]:
    return [videos[videos.labels_V == label] for label in np.unique(videos.labels_V)]


def _statistics(parts: Sequence[_Videos]) -> Standardisation:
    """Statistics of videos' rows; every part of the videos counts the same, as in a run."""
    moments_2xD = np.mean(
        [np.stack([p.sums_VxD.sum(axis=0), p.squares_VxD.sum(axis=0)]) / p.rows_V.sum()
         for p in parts], axis=0,
    )  # fmt: skip
    return Standardisation.from_moments(*moments_2xD)


def _rows(videos: _Videos, standard: Standardisation) -> np.ndarray:
    """Returns the mean of each video's standardised rows, float64 [V, D]."""
    return standard.apply(videos.sums_VxD / videos.rows_V[:, None]).astype(np.float64)


def fit_logistic(
    rows_VxD: np.ndarray, labels_V: np.ndarray, strength: float = STRENGTH
) -> tuple[np.ndarray, float]:
    """Fits a logistic regression in which each label counts half.

    It minimises the mean over labels of their videos' mean cross-entropy, plus |weights|^2 /
    (2 strength); the intercept isn't penalised.

    Args:
      rows_VxD: a row of features for each video, about centred and of a size near 1.
      labels_V: 0 or 1 for each video; both must occur.
      strength: inverse of the penalty.

    Returns:
      (weights [D], intercept).
    """
    signs_V = 2.0 * labels_V - 1.0
    share_V = 0.5 / np.bincount(labels_V)[labels_V]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights_D = parameters[1:]
        logits_V = signs_V * (rows_VxD @ weights_D + parameters[0])
        value = share_V @ np.logaddexp(0.0, -logits_V) + weights_D @ weights_D / (2 * strength)
        slope_V = -signs_V * share_V * special.expit(-logits_V)
        gradient = np.append(slope_V.sum(), slope_V @ rows_VxD + weights_D / strength)
        return float(value), gradient

    start = np.zeros(rows_VxD.shape[1] + 1)
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": 1e-7, "ftol": 0.0}
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return found[1:], float(found[0])
