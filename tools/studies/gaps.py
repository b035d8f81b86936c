"""How far generated videos lie from real ones, measured on features: a study's second table.

The Frechet distance compares means and covariances of all rows (Heusel et al., NeurIPS 2017, there
on Inception features), and the two-sample test is the AUC of a classifier that tells generated
videos from real ones (Lopez-Paz and Oquab, ICLR 2017): 0.5 where it can't. Both are taken where
real videos' statistics standardise all features, and where each domain's own do.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from gvvad_jax import folds, metrics, regression
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import Member
from gvvad_jax.standardisation import standards
from gvvad_jax.store import annotations
from gvvad_jax.store.reader import Store
from tools.studies import draws, statistics, tables
from tools.studies.grid import GridStudy
from tools.studies.rows import write_records

FOLDS, REPEATS = 5, 4
# Inverse penalty of the classifier. Domains that are far apart are separable, where a weak penalty
# takes long and changes no order.
STRENGTH = 100.0
STANDARDISED_BY = ("real", "domain")


@dataclasses.dataclass(frozen=True)
class Gap:
    """A row of the table: the distance of a draw's generated training videos from its real ones.

    Attributes:
      footage, draw, gap, clips: as in a study's table.
      standardised_by: whose statistics standardise generated videos: real, or domain.
      frechet: Frechet distance of the snippets' features.
      auc: AUC of a logistic regression on videos' mean features that tells the two apart, held out
        by group.
      real, generated: numbers of videos.
    """

    footage: str
    draw: int
    gap: str
    clips: str
    standardised_by: str
    frechet: float
    auc: float
    real: int
    generated: int


def measure(study: GridStudy) -> list[Gap]:
    """Measures every draw and gap of a study and writes its second table.

    Raises:
      UserError: a fault of the videos or the flags.
    """
    gaps = []
    for number in range(study.first_draw, study.first_draw + study.draws):
        draw = draws.prepare(study, number, True)
        for name, clips in draw.clips.items():
            for by in STANDARDISED_BY:
                real, generated = _members(draw.store, draw.annotated), _members(clips.store)
                rows = _features(real, generated, by)
                auc = two_sample_auc(*map(_means, rows), *map(_groups, (real, generated)))
                gaps.append(
                    Gap(
                        study.footage_name, number, name, study.clips_name, by,
                        frechet(*map(np.concatenate, rows)), auc, len(real), len(generated),
                    )
                )  # fmt: skip
        write_records(path_of(study), gaps)
    return gaps


def path_of(study: GridStudy) -> pathlib.Path:
    """The path of the second table, beside the first."""
    path = pathlib.Path(study.csv)
    return path.with_name(f"{path.stem}_features.csv")


def table_text(table: Sequence[Gap]) -> str:
    """The table as Markdown: mean +- standard deviation over draws."""
    lines = [
        "| gap | Frechet distance, all standardised by real videos | classifier's AUC "
        "| Frechet distance, each domain by its own | classifier's AUC |",
        "|---" * 5 + "|",
    ]
    for gap in dict.fromkeys(row.gap for row in table):
        cells = []
        for by in STANDARDISED_BY:
            rows = [row for row in table if (row.gap, row.standardised_by) == (gap, by)]
            distance = statistics.spread([row.frechet for row in rows])
            cells.append(f"{distance['mean']:.0f} +- {distance['sd']:.0f}")
            cells.append(tables.spread_text(statistics.spread([row.auc for row in rows])))
        lines.append(f"| {gap}, n = {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _members(path: str, annotated: annotations.Annotations | None = None) -> list[Member]:
    opened = Store(path)
    videos = (annotated or opened.videos).videos
    members = [Member(opened, videos[i]) for i in opened.rows if i in videos]
    return [member for member in members if member.video.split == "train"]


def _groups(members: Sequence[Member]) -> list[str]:
    """The group of each video: it and its twin are one."""
    return [min(m.video.kin, m.row.twin or m.video.kin) for m in members]


def _features(
    real: Sequence[Member], generated: Sequence[Member], by: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Standardised features [T x N, D] of each real and each generated video."""
    config = TrainConfig(detector="rtfm", standardise="yes", standardise_by=by)
    statistics = standards([*real, *generated], config)

    def rows(member: Member) -> np.ndarray:
        visual_TxNxD = member.store.visual(member.video.id)
        rows_MxD = visual_TxNxD.reshape(-1, visual_TxNxD.shape[-1])
        return np.asarray(statistics.of(member).apply(rows_MxD), np.float64)

    return [rows(member) for member in real], [rows(member) for member in generated]


def _means(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([rows_MxD.mean(axis=0) for rows_MxD in rows])


def frechet(left_MxD: np.ndarray, right_MxD: np.ndarray) -> float:
    """Frechet distance of two normal distributions that are fitted to rows of features.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with means m and covariances C.
    """
    from scipy import linalg

    means = [rows.mean(axis=0) for rows in (left_MxD, right_MxD)]
    first, second = (np.cov(rows, rowvar=False).reshape(len(means[0]), -1)
                     for rows in (left_MxD, right_MxD))  # fmt: skip
    # The root's trace is the sum of the roots of the eigenvalues of a symmetric product.
    root = linalg.sqrtm(first).real
    eigenvalues = np.linalg.eigvalsh(root @ second @ root)
    crossed = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    distance = np.square(means[0] - means[1]).sum() + np.trace(first + second) - 2 * crossed
    return max(float(distance), 0.0)


def two_sample_auc(
    real_VxD: np.ndarray,
    generated_VxD: np.ndarray,
    real_groups: Sequence[str],
    generated_groups: Sequence[str],
) -> float:
    """AUC of a logistic regression that tells generated rows from real ones, cross-validated.

    Args:
      real_VxD, generated_VxD: a row a video.
      real_groups, generated_groups: names of the videos' groups, which folds don't divide.

    Returns:
      The mean over repeats of the AUC of all held-out scores.
    """
    rows_VxD = np.concatenate([real_VxD, generated_VxD])
    labels_V = np.repeat([0, 1], [len(real_VxD), len(generated_VxD)])
    groups_V = np.array([*real_groups, *generated_groups], object)
    aucs = []
    for repeat in range(REPEATS):
        folds_V = folds.group_folds(labels_V, groups_V, FOLDS, np.random.default_rng(repeat))
        scores_V = np.zeros(len(labels_V))
        for fold in range(FOLDS):
            held_V = folds_V == fold
            train_VxD = rows_VxD[~held_V]
            centre_D = train_VxD.mean(axis=0)
            size = math.sqrt(np.square(train_VxD - centre_D).sum(axis=1).mean()) or 1.0
            weights_D, intercept = regression.fit_logistic(
                (train_VxD - centre_D) / size, labels_V[~held_V], STRENGTH
            )
            scores_V[held_V] = (rows_VxD[held_V] - centre_D) / size @ weights_D + intercept
        aucs.append(metrics.roc_auc(scores_V, labels_V))
    return float(np.mean(aucs))
