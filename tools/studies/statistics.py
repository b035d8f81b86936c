"""Statistics over runs, and of differences between paired runs.

Runs are paired when they share a seed (or a split): run n of one side is compared with run n of
the other, so that what the seed decides cancels out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
# Up to 13 pairs every assignment of signs is tried; above that, this many are drawn.
_RESAMPLES = 9999

SMALLER_IS_BETTER = ("far",)  # False alarm rate.
# Measures of a run by name, for example {"auc": 0.9}.
Measures = Mapping[str, float]


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of some values; a single value has deviation 0."""
    sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return float(np.mean(values)), float(sd)


def spread(values: Sequence[float]) -> dict[str, float]:
    """`mean_sd`, rounded to four digits, as {"mean", "sd"}."""
    mean, sd = mean_sd(values)
    return {"mean": round(mean, 4), "sd": round(sd, 4)}


def paired(
    after: Sequence[float], before: Sequence[float], *, smaller_is_better: bool = False
) -> dict[str, Any]:
    """Compares two sides run by run.

    Args:
      after: values of one side.
      before: values of the other side, in the same order.
      smaller_is_better: count a pair as won when its difference is negative.

    Returns:
      {"mean", "sd", "wins", "interval", "p_value", "smallest_p_value"}, all about the differences
      `after - before`. `interval` is Student's 95 % confidence interval of the mean difference,
      which assumes that differences are normally distributed; None for a single pair. `p_value` is
      the exact two-sided sign-flip permutation test of "no difference", which assumes only that
      they are symmetric. n pairs can't give a p-value below `smallest_p_value` = 2 / 2^n: fewer
      than six pairs never reach 0.05, whatever the difference is.
    """
    differences = [a - b for a, b in zip(after, before, strict=True)]
    wins = sum((d < 0) if smaller_is_better else (d > 0) for d in differences)
    return spread(differences) | {
        "wins": wins,
        "interval": interval(differences),
        "p_value": round(p_value(differences), 4),
        "smallest_p_value": round(max(2.0 ** (1 - len(differences)), 2 / (_RESAMPLES + 1)), 4),
    }


# The keys of `paired` that say how sure a difference is.
_CERTAINTY = ("interval", "p_value", "smallest_p_value")


def brief(result: Any) -> Any:
    """Returns a result without the intervals and p-values of its differences."""
    if not isinstance(result, Mapping):
        return result
    return {key: brief(value) for key, value in result.items() if key not in _CERTAINTY}


def interval(differences: Sequence[float]) -> list[float] | None:
    """Student's 95 % confidence interval of the mean, [low, high]; None for fewer than two."""
    from scipy import stats

    if len(differences) < 2:
        return None
    mean, sd = mean_sd(differences)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
    half = quantile * sd / math.sqrt(len(differences))
    return [round(mean - half, 4), round(mean + half, 4)]


def p_value(differences: Sequence[float], alternative: str = "two-sided") -> float:
    """p-value of mean 0 by flipping signs; 1 where all differences are 0.

    Args:
      differences: the paired differences.
      alternative: two-sided; greater or less for the mean being above or below 0.
    """
    from scipy import stats

    if len(differences) < 2:
        return 1.0
    test = stats.permutation_test(
        (np.asarray(differences, float),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        alternative=alternative,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values of several tests for being several (Holm, 1979).

    The smallest of n p-values is multiplied by n, the next one by n - 1, and so on; none gets less
    than a smaller one, or more than 1. Rejecting where the result is at most alpha wrongly rejects
    any true hypothesis with a probability of at most alpha.

    Returns:
      The corrected p-values, in the given order.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def spreads(runs: Sequence[Measures], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """`spread` of each named measure over runs."""
    return {name: spread([run[name] for run in runs]) for name in names}


def paired_measures(
    after: Sequence[Measures], before: Sequence[Measures], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`paired` of each named measure over two sides' runs."""
    return {
        name: paired(
            [run[name] for run in after],
            [run[name] for run in before],
            smaller_is_better=name in SMALLER_IS_BETTER,
        )
        for name in names
    }
