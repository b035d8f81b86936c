"""Draws the batches of (normal, abnormal) pairs.

The videos of batch number n are a pure function of (seed, n), so a resumed run sees the same
batches although no state of the drawing is saved.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig

# Rows of videos, and how many of them a batch takes.
Pool = tuple[np.ndarray, int]


class Batch(NamedTuple):
    """One step's B pairs of (normal, abnormal) videos, as rows of the training data.

    Attributes:
      videos_Bx2: int32, the videos.
      pairs_B: int32, places of the pairs in the global batch.
      partners_Bx2: int32, the video that each one is mixed with; None without mixup.
      shares_Bx2: float32, the video's own share of its mixture; None without mixup.
      held_out_Bx2: int32, videos that only lambda learns from; None except in mode `meta`.
    """

    videos_Bx2: Any
    pairs_B: Any
    partners_Bx2: Any = None
    shares_Bx2: Any = None
    held_out_Bx2: Any = None


class Batches:
    """The batches of a run, a pure function of (seed, step).

    The videos of a label form a pool that is drawn without replacement and reshuffled each pass;
    the last, short batch of a pass is dropped. A pool smaller than its part of the batch cycles.
    With `synthetic_share`, the real and the synthetic videos of a label form a pool each.

    Args:
      labels_V: labels of all training videos, 0 or 1.
      synthetic_V: whether each video is synthetic.
      config: batch size, seed, synthetic share, mixup.
      held_out_V: whether only lambda learns from the video; None for no video.

    Raises:
      UserError: a label has no videos for the synthetic share, or the batch has no room for it.
    """

    def __init__(
        self,
        labels_V: np.ndarray,
        synthetic_V: np.ndarray,
        config: TrainConfig,
        held_out_V: np.ndarray | None = None,
    ):
        held_out_V = np.zeros(len(labels_V), bool) if held_out_V is None else held_out_V
        self._config, self._synthetic_V = config, synthetic_V
        by_label = [(labels_V == label) & ~held_out_V for label in (0, 1)]
        self._pools = [_pools(members_V, synthetic_V, config) for members_V in by_label]
        self._held_out = [
            [(np.flatnonzero((labels_V == label) & held_out_V), config.batch_size)]
            for label in (0, 1)
        ]
        # By label and source: the partners that a video of the OTHER source may be mixed with.
        self._partners = [
            [np.flatnonzero(members_V & (synthetic_V == kind)) for kind in (False, True)]
            for members_V in by_label
        ]

    def at(self, step: int) -> Batch:
        """Returns batch number `step`, in numpy arrays."""
        videos_Bx2 = self._draw(self._pools, step, 0)
        partners_Bx2 = shares_Bx2 = held_out_Bx2 = None
        if self._config.mixup:
            partners_Bx2, shares_Bx2 = self._mix(videos_Bx2, step)
        if self._config.lambda_mode == "meta":
            held_out_Bx2 = self._draw(self._held_out, step, 1)
        pairs_B = np.arange(self._config.batch_size, dtype=np.int32)
        return Batch(videos_Bx2, pairs_B, partners_Bx2, shares_Bx2, held_out_Bx2)

    def _draw(self, pools: Sequence[Sequence[Pool]], step: int, stream: int) -> np.ndarray:
        halves = []
        for label, label_pools in enumerate(pools):
            drawn = [
                _draw(pool, count, step, (self._config.seed, label, kind + 2 * stream))
                for kind, (pool, count) in enumerate(label_pools)
            ]
            halves.append(np.concatenate(drawn))
        return np.stack(halves, axis=1).astype(np.int32)

    def _mix(self, videos_Bx2: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws each video's partner, of the same label and the other source, and its own share.

        Shares are s or 1 - s, whichever is larger, with s from Beta(alpha, alpha), so that a video
        stays the larger part of its mixture (MixMatch, Berthelot et al., 2019). Where a label has
        no video of the other source, a video is its own partner.
        """
        alpha = self._config.mixup
        rng = np.random.default_rng([self._config.seed, step, 5])
        drawn_Bx2 = rng.beta(alpha, alpha, videos_Bx2.shape)
        shares_Bx2 = np.maximum(drawn_Bx2, 1.0 - drawn_Bx2).astype(np.float32)
        partners_Bx2, places_Bx2 = videos_Bx2.copy(), rng.random(videos_Bx2.shape)
        for label, label_pools in enumerate(self._partners):
            for kind, pool in enumerate(label_pools):
                other = self._synthetic_V[videos_Bx2[:, label]] != bool(kind)
                if len(pool):
                    places_B = (places_Bx2[:, label] * len(pool)).astype(int)
                    partners_Bx2[other, label] = pool[places_B[other]]
        return partners_Bx2, shares_Bx2


def _pools(members_V: np.ndarray, synthetic_V: np.ndarray, config: TrainConfig) -> list[Pool]:
    """Returns the pools of one label, whose videos `members_V` marks."""
    if config.synthetic_share is None:
        return [(np.flatnonzero(members_V), config.batch_size)]
    synthetic = round(config.synthetic_share * config.batch_size)
    if 0 < config.synthetic_share < 1 and synthetic in (0, config.batch_size):
        raise UserError(
            f"--synthetic_share: expected both real and synthetic videos among each label's "
            f"{config.batch_size} in a batch, found {synthetic} synthetic for a share of "
            f"{config.synthetic_share}; raise --batch_size, or set the share to 0 or 1"
        )
    pools = []
    for kind, count in ((False, config.batch_size - synthetic), (True, synthetic)):
        rows = np.flatnonzero(members_V & (synthetic_V == kind))
        if count and not len(rows):
            raise UserError(
                f"--synthetic_share: expected {'synthetic' if kind else 'real'} videos of each "
                f"label for a share of {config.synthetic_share}, found a label without any; change "
                "the share"
            )
        if count:
            pools.append((rows, count))
    return pools


def _draw(pool: np.ndarray, count: int, step: int, key: Sequence[int]) -> np.ndarray:
    """Draws `count` rows of a pool for step number `step`."""

    def shuffled(number: int) -> np.ndarray:
        return np.random.default_rng([*key, number]).permutation(pool)

    if len(pool) >= count:
        number, place = divmod(step, len(pool) // count)
        return shuffled(number)[place * count : (place + 1) * count]
    first, last = step * count, (step + 1) * count
    passes = range(first // len(pool), (last - 1) // len(pool) + 1)
    offset = first - passes[0] * len(pool)
    return np.concatenate([shuffled(number) for number in passes])[offset : offset + count]
