"""Puts generated abnormal videos beside their normal twins (`--pair_twins`). No JAX."""

from collections.abc import Sequence

import numpy as np

from gvvad_jax.splits import Member


def twins_of(members: Sequence[Member]) -> np.ndarray:
    """Finds the normal twin of each generated abnormal video.

    A store's rows name twins where it was encoded with the videos' descriptions.

    Returns:
      twins_V: int, the twin's place among `members`, all of one store; -1 where it isn't there.
    """
    places = {
        (member.store.path, member.video.id): place
        for place, member in enumerate(members)
        if not member.video.label
    }
    return np.array(
        [
            places.get((m.store.path, m.row.twin), -1) if m.video.label and m.row.twin else -1
            for m in members
        ],
        int,
    )


class TwinPairs:
    """Pairs the videos of one part of a batch, in which both halves have as many places.

    Each generated abnormal video gets its twin beside it, if that is in the part's pool. The other
    places keep the normal videos that were drawn, in their places where that is possible; but how
    many of them are real is set so that over the steps the normal half has the share of real videos
    that it has without twins. The generated ones among them are chosen so that, as far as that can
    be, every normal video is as frequent as without twins, also one whose own twin is absent.

    With t the share of abnormal videos that have a twin in the pool, and g the share of generated
    ones among the normal videos, all of that holds for t <= g. For t > g twins would push real
    normal videos out, so only a share g / t of the videos, drawn anew in each step, is paired with
    the twin, and the others as drawn. `paired` is that share, 1 for t <= g.

    Args:
      normal_N, abnormal_A: the videos of the part's pools.
      synthetic_V: whether each video is generated.
      twins_V: each video's twin; -1 for none.
    """

    def __init__(
        self,
        normal_N: np.ndarray,
        abnormal_A: np.ndarray,
        synthetic_V: np.ndarray,
        twins_V: np.ndarray,
    ):
        self._synthetic_V = synthetic_V
        self._twins_V = np.where(np.isin(twins_V, normal_N), twins_V, -1)
        twins_A = self._twins_V[abnormal_A]
        generated_N = synthetic_V[normal_N]
        twinned, generated = (twins_A >= 0).mean(), generated_N.mean()
        self.paired = min(1.0, float(generated / twinned)) if twinned else 0.0
        # The share of real videos among the places without a twin.
        others = 1.0 - self.paired * twinned
        self._real = min(1.0, float((1.0 - generated) / others)) if others > 0 else 0.0
        # How often each video is still to be drawn, as a share of how often it was drawn.
        as_twin_V = np.bincount(twins_A[twins_A >= 0], minlength=len(synthetic_V))
        still_V = 1.0 - as_twin_V * self.paired * len(normal_N) / len(abnormal_A)
        still_N = np.maximum(still_V[normal_N], 0.0)
        # Real videos, then generated ones, and what is left of each.
        self._kinds = [
            (normal_N[generated_N == kind], still_N[generated_N == kind]) for kind in (False, True)
        ]

    def apply(
        self, normal_P: np.ndarray, abnormal_P: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Returns the normal videos [P] to stand beside the abnormal ones.

        Args:
          normal_P, abnormal_P: the videos that were drawn for the part's places.
          rng: a generator of this step's own.
        """
        if not self.paired:
            return normal_P
        paired_P = normal_P.copy()
        twins_P = self._twins_V[abnormal_P]
        twinned = np.flatnonzero(twins_P >= 0)
        beside = rng.permutation(twinned)[: _rounded(self.paired * len(twinned), rng)]
        paired_P[beside] = twins_P[beside]
        others = np.setdiff1d(np.arange(len(normal_P)), beside)
        num_real = _rounded(self._real * len(others), rng)
        left: list[int] = []
        for (pool_K, still_K), count in zip(
            self._kinds, (num_real, len(others) - num_real), strict=True
        ):
            left += _choose(pool_K, still_K, count, normal_P, paired_P[beside], rng)
        vacant = []
        for place in others:
            if normal_P[place] in left:
                left.remove(normal_P[place])
            else:
                vacant.append(place)
        # Videos of one source side by side: `left` has the real ones first.
        vacant.sort(key=lambda place: bool(self._synthetic_V[abnormal_P[place]]))
        paired_P[vacant] = left
        return paired_P


def _rounded(number: float, rng: np.random.Generator) -> int:
    """Rounds up or down at random, so that the mean is the number itself."""
    return int(number + rng.random())


def _choose(
    pool_K: np.ndarray,
    still_K: np.ndarray,
    count: int,
    drawn_P: np.ndarray,
    twins: np.ndarray,
    rng: np.random.Generator,
) -> list[int]:
    """Chooses videos of a pool: of those drawn each with its chance, then others by their chances.

    Videos that stand in the batch as twins come last. A pool that is too small cycles.
    """
    drawn_K = np.isin(pool_K, drawn_P) & (rng.random(len(pool_K)) < still_K)
    with np.errstate(divide="ignore"):
        waits_K = rng.exponential(size=len(pool_K)) / still_K
    order_K = np.lexsort((waits_K, ~drawn_K, np.isin(pool_K, twins)))
    return np.resize(pool_K[order_K], count).tolist() if count else []
