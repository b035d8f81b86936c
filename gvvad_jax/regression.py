"""A logistic regression on each video's mean features, which stands in for a detector.

It takes seconds, overfits small sets less than detectors do, and has no settings. numpy and scipy
only.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from gvvad_jax import metrics
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import Member, Splits
from gvvad_jax.standardisation import Standardisation, standardises

# Inverse penalty of the regression, where rows have a mean squared norm of 1 and losses a mean.
STRENGTH = 1e4
# Of Newton's method, which takes about ten.
MAX_ITERATIONS = 100
# Snippets that are read at a time.
_READ_SNIPPETS = 1024


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
        return [statistics(by_label(domain)) for domain in domains]


def by_label(videos: Videos) -> list[Videos]:
    """Returns the videos of each label that there are any of."""
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
    offsets_V: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, float]:
    """Fits a logistic regression in which each label counts half.

    It minimises the mean over labels of their videos' mean cross-entropy, plus |weights|^2 /
    (2 strength); the intercept isn't penalised.

    Args:
      rows_VxD: a row of features for each video, about centred and of a size near 1.
      labels_V: 0 or 1 for each video; both must occur.
      strength: inverse of the penalty.
      counts_V: what each video counts in its label's mean; all the same for None.
      offsets_V: known logits, which the regression adds to.

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
        losses_V = np.logaddexp(0.0, -signs_V * (offsets_V + inputs_VxP @ parameters_P))
        return float(share_V @ losses_V + penalty_P @ np.square(parameters_P) / 2)

    # Newton's method: the loss is convex, so that a step that lowers it enough is always found.
    parameters_P = np.zeros(len(penalty_P))
    for _ in range(MAX_ITERATIONS):
        wrong_V = special.expit(-signs_V * (offsets_V + inputs_VxP @ parameters_P))
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
