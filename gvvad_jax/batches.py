"""Which videos make each batch of (normal, abnormal) pairs.

The videos of batch number n are a pure function of (seed, n), so a resumed run sees the same
batches without any state being saved.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig


class Batch(NamedTuple):
    """What one step sees: rows of the training data, B pairs of (normal, abnormal) videos.

    Attributes:
      videos_Bx2: int32, the videos.
      pairs_B: int32, places of the pairs in the global batch.
      partners_Bx2: int32, what each video is mixed with; None without mixup.
      shares_Bx2: float32, how much of the mixture is the video itself; None without mixup.
      held_out_Bx2: int32, videos that lambda alone learns from; None unless it does.
    """

    videos_Bx2: Any
    pairs_B: Any
    partners_Bx2: Any = None
    shares_Bx2: Any = None
    held_out_Bx2: Any = None


class Batches:
    """Which videos make each batch: a pure function of (seed, step).

    Each label is a pool drawn without replacement and reshuffled each pass, the last short batch
    of a pass dropped; a pool smaller than its part of the batch cycles. Without
    `synthetic_share` real and synthetic videos of a label are one pool.

    Args:
      labels_V, synthetic_V: of all videos on the device.
      held_out_V: which of them lambda alone learns from.
      config: batch size, seed, synthetic share, mixup.

    Raises:
      UserError: a synthetic share that a label has no videos for, or a batch no room.
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
        of_label = [(labels_V == label) & ~held_out_V for label in (0, 1)]
        self._pools = [_pools(of, synthetic_V, config) for of in of_label]
        self._held_out = [
            [(np.flatnonzero((labels_V == label) & held_out_V), config.batch_size)]
            for label in (0, 1)
        ]
        # By label and source: whom a video of the OTHER source may be mixed with.
        self._partners = [
            [np.flatnonzero(of & (synthetic_V == kind)) for kind in (False, True)]
            for of in of_label
        ]

    def at(self, step: int) -> Batch:
        """Batch number `step`, on the host."""
        videos_Bx2 = self._draw(self._pools, step, 0)
        partners_Bx2 = shares_Bx2 = held_out_Bx2 = None
        if self._config.mixup:
            partners_Bx2, shares_Bx2 = self._mix(videos_Bx2, step)
        if self._config.lambda_mode == "meta":
            held_out_Bx2 = self._draw(self._held_out, step, 1)
        pairs_B = np.arange(self._config.batch_size, dtype=np.int32)
        return Batch(videos_Bx2, pairs_B, partners_Bx2, shares_Bx2, held_out_Bx2)

    def _draw(self, pools: Sequence[Any], step: int, stream: int) -> np.ndarray:
        halves = []
        for label, of_label in enumerate(pools):
            drawn = [
                _draw(pool, count, step, (self._config.seed, label, kind + 2 * stream))
                for kind, (pool, count) in enumerate(of_label)
            ]
            halves.append(np.concatenate(drawn))
        return np.stack(halves, axis=1).astype(np.int32)

    def _mix(self, videos_Bx2: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """A partner of the same label and the other source for each video, and its share.

        Shares are drawn from Beta(alpha, alpha) and folded over one half, so that a video stays
        the larger part of its mixture (MixMatch, Berthelot et al., 2019). Where a label has no
        video of the other source a video stays as it is.
        """
        alpha = self._config.mixup
        rng = np.random.default_rng([self._config.seed, step, 5])
        drawn_Bx2 = rng.beta(alpha, alpha, videos_Bx2.shape)
        shares_Bx2 = np.maximum(drawn_Bx2, 1.0 - drawn_Bx2).astype(np.float32)
        partners_Bx2, places_Bx2 = videos_Bx2.copy(), rng.random(videos_Bx2.shape)
        for label, of_label in enumerate(self._partners):
            for kind, pool in enumerate(of_label):
                other = self._synthetic_V[videos_Bx2[:, label]] != bool(kind)
                if len(pool):
                    places_B = (places_Bx2[:, label] * len(pool)).astype(int)
                    partners_Bx2[other, label] = pool[places_B[other]]
        return partners_Bx2, shares_Bx2


def _pools(
    of_label_V: np.ndarray, synthetic_V: np.ndarray, config: TrainConfig
) -> list[tuple[np.ndarray, int]]:
    """(rows of the videos, how many a batch takes of them) for one label."""
    if config.synthetic_share is None:
        return [(np.flatnonzero(of_label_V), config.batch_size)]
    synthetic = round(config.synthetic_share * config.batch_size)
    if 0 < config.synthetic_share < 1 and synthetic in (0, config.batch_size):
        raise UserError(
            f"--synthetic_share: expected room for real and synthetic videos among each label's "
            f"{config.batch_size} of a batch, found {synthetic} synthetic for a share of "
            f"{config.synthetic_share}; raise --batch_size, or give 0 or 1"
        )
    pools = []
    for kind, count in ((False, config.batch_size - synthetic), (True, synthetic)):
        rows = np.flatnonzero(of_label_V & (synthetic_V == kind))
        if count and not len(rows):
            raise UserError(
                f"--synthetic_share: expected {'synthetic' if kind else 'real'} videos of each "
                f"label for a share of {config.synthetic_share}, found none of one; change it"
            )
        if count:
            pools.append((rows, count))
    return pools


def _draw(pool: np.ndarray, count: int, step: int, key: Sequence[int]) -> np.ndarray:
    """Draw number `step` of `count` rows."""

    def shuffled(number: int) -> np.ndarray:
        return np.random.default_rng([*key, number]).permutation(pool)

    if len(pool) >= count:
        number, place = divmod(step, len(pool) // count)
        return shuffled(number)[place * count : (place + 1) * count]
    first, last = step * count, (step + 1) * count
    passes = range(first // len(pool), (last - 1) // len(pool) + 1)
    offset = first - passes[0] * len(pool)
    return np.concatenate([shuffled(number) for number in passes])[offset : offset + count]
