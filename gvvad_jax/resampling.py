"""Intervals of measures, and comparison of two detectors, by resampling whole videos.

Frames of a video depend on each other, so videos are drawn, or groups of videos where some share a
camera or a scene. Nothing is sorted anew for a draw: scores are sorted once, into counts by level
and video, of which each draw is a weighted sum. It is exact, ties included.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse, special

from gvvad_jax import metrics
from gvvad_jax.metrics import Runs

# Confidence of the intervals.
LEVEL = 0.95
# Numbers held at once for each array of a batch of draws.
_AT_ONCE = 1 << 22


class Tally:
    """Counts by score level and video, whose weighted sums give the measures of any draw of videos.

    A level is a distinct score of a positive frame, from the highest down. Negative frames either
    tie with a level or lie in the gap above it.

    Args:
      videos: the runs of each video.
    """

    def __init__(self, videos: Sequence[Runs]):
        self._count = len(videos)
        runs = metrics.concatenate(videos)
        video_R = np.repeat(np.arange(self._count), [len(v.scores_R) for v in videos])
        negatives_R = runs.frames_R - runs.positives_R
        self.positives_V = np.bincount(video_R, runs.positives_R, self._count)
        self.negatives_V = np.bincount(video_R, negatives_R, self._count)
        falling_K = np.unique(-runs.scores_R[runs.positives_R > 0])
        level_R = np.searchsorted(falling_K, -runs.scores_R)
        ties_R = np.append(falling_K, np.nan)[level_R] == -runs.scores_R
        self._levels = len(falling_K)

        def table(numbers_R: np.ndarray, chosen_R: np.ndarray) -> sparse.csr_array:
            rows = chosen_R & (numbers_R > 0) & (level_R < self._levels)
            return sparse.csr_array(
                (numbers_R[rows].astype(np.float64), (level_R[rows], video_R[rows])),
                shape=(self._levels, self._count),
            )

        self._positives_KxV = table(runs.positives_R, ties_R)
        self._ties_KxV = table(negatives_R, ties_R)
        self._gaps_KxV = table(negatives_R, ~ties_R)

    def wins(self) -> np.ndarray:
        """Counts the pairs of a positive frame of video u and a negative one of v that u wins.

        Returns:
          float64 [V, V]; a tie is half a win. The AUC of any videos is the sum over them, divided
          by the number of their pairs.
        """
        wins_VxV = np.zeros((self._count, self._count))
        above_V = np.zeros(self._count)
        rows = max(1, _AT_ONCE // max(1, self._count))
        for start in range(0, self._levels, rows):
            part = slice(start, start + rows)
            ties_KxV = self._ties_KxV[part].toarray()
            above_KxV = above_V + np.cumsum(self._gaps_KxV[part].toarray() + ties_KxV, axis=0)
            above_V = above_KxV[-1]
            below_KxV = self.negatives_V - above_KxV + 0.5 * ties_KxV
            wins_VxV += self._positives_KxV[part].T @ below_KxV
        return wins_VxV

    def precision_recall(self, weights_BxV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and PR-AUC of each draw.

        Args:
          weights_BxV: how often each draw has each video.

        Returns:
          (float64 [B], float64 [B]), NaN without a positive frame.
        """
        draws = max(1, _AT_ONCE // max(1, self._levels))
        parts = [
            self._precision_recall(np.ascontiguousarray(weights_BxV[start : start + draws].T))
            for start in range(0, len(weights_BxV), draws)
        ]
        ap_B, pr_auc_B = (np.concatenate(part) for part in zip(*parts, strict=True))
        return ap_B, pr_auc_B

    def _precision_recall(self, weights_VxB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rise_KxB = self._positives_KxV @ weights_VxB
        gaps_KxB = self._gaps_KxV @ weights_VxB
        true_KxB = np.cumsum(rise_KxB, axis=0)
        false_KxB = np.cumsum(gaps_KxB + self._ties_KxV @ weights_VxB, axis=0)
        total_B = self.positives_V @ weights_VxB
        precision_KxB = _ratio(true_KxB, true_KxB + false_KxB)
        # What the trapezoid to a level begins with: the precision at the lowest score above it.
        true_KxB -= rise_KxB
        before_KxB = np.vstack([np.zeros_like(false_KxB[:1]), false_KxB[:-1]]) + gaps_KxB
        before_KxB = _ratio(true_KxB, true_KxB + before_KxB)
        ap_B = _ratio((rise_KxB * precision_KxB).sum(axis=0), total_B, np.nan)
        area_B = (rise_KxB * (precision_KxB + before_KxB)).sum(axis=0) / 2
        return ap_B, _ratio(area_B, total_B, np.nan)


def _ratio(above: np.ndarray, below: np.ndarray, otherwise: float = 1.0) -> np.ndarray:
    """The ratio, and another value where it would be 0 / 0; precision of no alarm is 1."""
    return np.divide(above, below, out=np.full(np.shape(above), otherwise), where=below > 0)


def draw(groups: Sequence[str], draws: int, seed: int) -> np.ndarray:
    """Draws groups with replacement, as many as there are.

    Args:
      groups: the group of each video.
      draws: number of draws.
      seed: of the draws.

    Returns:
      float64 [B, V], how often each draw has each video.
    """
    names, group_V = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    counts_BxG = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts_BxG[:, group_V].astype(np.float64)


class Sample:
    """The test videos of one detector, ready to be drawn from.

    Args:
      runs: runs of frames by video id.
      abnormal: ids of the abnormal videos.
      by_class: ids of the abnormal videos of each class.
      far_threshold: of the false alarm rate.
      video_scores: one score a video by id; None where there are none.
    """

    def __init__(
        self,
        runs: Mapping[str, Runs],
        abnormal: Sequence[str],
        by_class: Mapping[str, Sequence[str]],
        far_threshold: float,
        video_scores: Mapping[str, float] | None = None,
    ):
        ids = list(runs)
        self._tally = Tally(list(runs.values()))
        self._wins_VxV = self._tally.wins()
        self._abnormal_V = np.array([i in set(abnormal) for i in ids], np.float64)
        self._by_class = {
            name: np.array([i in set(members) for i in ids]) | (self._abnormal_V == 0)
            for name, members in by_class.items()
        }
        self._alarms_V = np.array(
            [(r.frames_R - r.positives_R)[r.scores_R > far_threshold].sum() for r in runs.values()],
            np.float64,
        )
        self._by_video = None
        if video_scores is not None:
            self._by_video = Tally(
                [metrics.find_runs([video_scores[i]], [int(i in set(abnormal))]) for i in ids]
            )

    def measures(self, weights_BxV: np.ndarray) -> dict[str, np.ndarray]:
        """Measures of each draw [B] by name, NaN where one isn't defined.

        A class's AUC is named "per_class/CLASS".
        """
        tally = self._tally
        ap_B, pr_auc_B = tally.precision_recall(weights_BxV)
        far_B = _ratio(weights_BxV @ self._alarms_V, weights_BxV @ tally.negatives_V, np.nan)
        measures = {
            "auc": _auc(tally, self._wins_VxV, weights_BxV),
            "ap": ap_B,
            "pr_auc": pr_auc_B,
            "auc_abnormal": _auc(tally, self._wins_VxV, weights_BxV * self._abnormal_V),
            "far": far_B,
        }
        for name, chosen_V in self._by_class.items():
            measures[f"per_class/{name}"] = _auc(tally, self._wins_VxV, weights_BxV * chosen_V)
        if self._by_video:
            measures["video_auc"] = _auc(self._by_video, self._by_video.wins(), weights_BxV)
            measures["video_ap"] = self._by_video.precision_recall(weights_BxV)[0]
        return measures

    def influence(self) -> np.ndarray:
        """How much each video moves the AUC [V]; they add up to 0.

        A positive frame's share of the negative ones that it beats, less the AUC, summed over the
        video and divided by all positive frames, and the same for negative frames: the components
        of DeLong et al. (1988), summed within clusters as in Obuchowski (1997).
        """
        tally, wins_VxV = self._tally, self._wins_VxV
        positives, negatives = tally.positives_V.sum(), tally.negatives_V.sum()
        auc = wins_VxV.sum() / (positives * negatives)
        of_positives_V = wins_VxV.sum(axis=1) / negatives - auc * tally.positives_V
        of_negatives_V = wins_VxV.sum(axis=0) / positives - auc * tally.negatives_V
        return of_positives_V / positives + of_negatives_V / negatives


def _auc(tally: Tally, wins_VxV: np.ndarray, weights_BxV: np.ndarray) -> np.ndarray:
    wins_B = ((weights_BxV @ wins_VxV) * weights_BxV).sum(axis=1)
    pairs_B = (weights_BxV @ tally.positives_V) * (weights_BxV @ tally.negatives_V)
    return _ratio(wins_B, pairs_B, np.nan)


def _interval(values_B: np.ndarray) -> list[float] | None:
    """The percentile interval; None where fewer than half of the draws have the measure."""
    defined = values_B[~np.isnan(values_B)]
    if 2 * len(defined) < len(values_B):
        return None
    return np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def _by_measure(values: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the values of classes under "per_class"."""
    nested: dict[str, Any] = {k: v for k, v in values.items() if not k.startswith("per_class/")}
    nested["per_class"] = {
        k.removeprefix("per_class/"): v for k, v in values.items() if k not in nested
    }
    return nested


def intervals(sample: Sample, groups: Sequence[str], draws: int, seed: int = 0) -> dict[str, Any]:
    """Bootstrap intervals (percentiles, 95 %) of the measures of a sample.

    Args:
      sample: the test videos.
      groups: the group of each video; its own id where it has none.
      draws: number of draws.
      seed: of the draws.

    Returns:
      {auc, ap, pr_auc, auc_abnormal, far, per_class, (video_auc, video_ap), draws, units}: [low,
      high] of each measure, and how many groups were drawn. None where fewer than half of the draws
      have the measure.
    """
    values = sample.measures(draw(groups, draws, seed))
    return _by_measure({name: _interval(values_B) for name, values_B in values.items()}) | {
        "draws": draws, "units": len(set(groups)), "level": LEVEL,
    }  # fmt: skip


def compare(
    one: Sample, other: Sample, groups: Sequence[str], draws: int, seed: int = 0
) -> dict[str, Any]:
    """Compares two detectors on the same videos: both are measured on the same draws.

    Args:
      one, other: the detectors' scores of the same videos in the same order.
      groups: see `intervals`.
      draws: number of draws.
      seed: of the draws.

    Returns:
      {auc, ap, ...}: {one, other, difference, interval, p} of each measure. The difference is one
      less other, p is two-sided by the bootstrap: twice the share of draws on the other side of 0,
      at least 2 / (draws + 1). "auc" has `p_delong` too, by a t test of the videos' influence on
      the difference, which needs no draws. Values that aren't defined are None.
    """
    weights_BxV = draw(groups, draws, seed)
    whole_1xV = np.ones((1, weights_BxV.shape[1]))
    values, others = one.measures(weights_BxV), other.measures(weights_BxV)
    at_one, at_other = one.measures(whole_1xV), other.measures(whole_1xV)
    compared: dict[str, dict[str, Any]] = {}
    for name in values.keys() & others.keys():
        interval = _interval(values[name] - others[name])
        first, second = float(at_one[name][0]), float(at_other[name][0])
        missing = interval is None or np.isnan(first)
        compared[name] = {
            "one": None if np.isnan(first) else first,
            "other": None if np.isnan(second) else second,
            "difference": None if missing else first - second,
            "interval": interval,
            "p": None if missing else _p_value(values[name] - others[name]),
        }
    compared = {name: compared[name] for name in values if name in compared}
    if compared["auc"]["p"] is not None:
        difference = float(at_one["auc"][0] - at_other["auc"][0])
        moves_V = one.influence() - other.influence()
        compared["auc"]["p_delong"] = _p_delong(difference, moves_V, groups)
    return _by_measure(compared) | {"draws": draws, "units": len(set(groups)), "level": LEVEL}


def _p_value(differences_B: np.ndarray) -> float:
    defined = differences_B[~np.isnan(differences_B)]
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    return min(1.0, 2 * (int(tail) + 1) / (len(defined) + 1))


def _p_delong(difference: float, influence_V: np.ndarray, groups: Sequence[str]) -> float | None:
    """Two-sided p of the AUC's difference, from the videos' influence on it; None for one group."""
    _, group_V = np.unique(np.asarray(groups), return_inverse=True)
    influence_G = np.bincount(group_V, influence_V)
    units = len(influence_G)
    if units < 2:
        return None
    error = float(np.sqrt(units / (units - 1) * np.sum(influence_G**2)))
    if error < 1e-12:
        return float(abs(difference) < 1e-12)
    # Twice the tail of Student's t; scipy.stats takes seconds to import.
    return float(2 * special.stdtr(units - 1, -abs(difference) / error))
