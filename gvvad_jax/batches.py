"""Draws the batches of (normal, abnormal) pairs.

The videos of batch number n are a pure function of (seed, n), so a resumed run sees the same
batches although no state of the drawing is saved.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.pairing import TwinPairs

# --synthetic_share=auto: half of each batch (docs/studies.md).
AUTO_SHARE = 0.5
_LABELS = ("normal", "abnormal")

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
    With `synthetic_share`, the real and the synthetic videos of a label form a pool each. The
    synthetic ones then have the same places in both halves of a batch, so that no pair has a real
    and a synthetic video; from one pool, pairs mix them as they come. With `pair_twins` the normal
    half is arranged anew by `pairing.TwinPairs`, before mixup; the abnormal half stays as drawn.

    Args:
      labels_V: labels of all training videos, 0 or 1.
      synthetic_V: whether each video is synthetic.
      config: batch size, seed, synthetic share, mixup.
      held_out_V: whether only lambda learns from the video; None for no video.
      twins_V: the normal twin of each generated abnormal video, -1 for none; for `pair_twins`.

    Raises:
      UserError: a label has no videos for the synthetic share, or the batch has no room for it.
    """

    def __init__(
        self,
        labels_V: np.ndarray,
        synthetic_V: np.ndarray,
        config: TrainConfig,
        held_out_V: np.ndarray | None = None,
        twins_V: np.ndarray | None = None,
    ):
        held_out_V = np.zeros(len(labels_V), bool) if held_out_V is None else held_out_V
        twins_V = np.full(len(labels_V), -1) if twins_V is None else twins_V
        self._config, self._synthetic_V = config, synthetic_V
        by_label = [(labels_V == label) & ~held_out_V for label in (0, 1)]
        self._counts = np.array(
            [[(members_V & (synthetic_V == kind)).sum() for kind in (False, True)]
             for members_V in by_label]
        )  # fmt: skip
        self._share = _share(self._counts, config)
        self._pools = [
            _pools(members_V, synthetic_V, self._share, config.batch_size) for members_V in by_label
        ]
        # One for each part of a batch.
        self._twin_pairs = [
            TwinPairs(normal, abnormal, synthetic_V, twins_V)
            for (normal, _), (abnormal, _) in zip(*self._pools, strict=True)
        ]
        self._num_twinned = int((by_label[1] & synthetic_V & (twins_V >= 0)).sum())
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
        if self._config.pair_twins:
            videos_Bx2[:, 0] = self._beside_twins(videos_Bx2, step)
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

    def _beside_twins(self, videos_Bx2: np.ndarray, step: int) -> np.ndarray:
        """Returns the normal half of a batch, with twins beside each other."""
        rng = np.random.default_rng([self._config.seed, step, 6])
        ends = np.cumsum([count for _, count in self._pools[0]])[:-1]
        halves = (np.split(half_B, ends) for half_B in videos_Bx2.T)
        return np.concatenate(
            [
                pairs.apply(normal_P, abnormal_P, rng)
                for pairs, normal_P, abnormal_P in zip(self._twin_pairs, *halves, strict=True)
            ]
        )

    def report(self) -> None:
        """Prints `notes` on standard error."""
        for note in self.notes():
            print(note, file=sys.stderr)

    def notes(self) -> list[str]:
        """Lists what people should know about the sources of the videos drawn, a line each.

        They are: the share that `auto` chose, labels of which more generated than real videos
        train, and generated videos that aren't paired with their twins.
        """
        notes, share, size = [], self._share, self._config.batch_size
        if share is not None:  # As many whole pairs as are nearest.
            share = round(share * size) / size
        if self._config.synthetic_share == "auto" and self._counts[:, 1].any():
            why = "a label has videos of one source only"
            if self._counts.all():
                why = f"batches of {size} pairs have no room for both"
            notes.append(
                f"--synthetic_share=auto: {share:.3g} of each half of a batch is generated"
                if share is not None
                else f"--synthetic_share=auto: real and generated videos form one pool: {why}"
            )
        more = [
            f"{generated} to {real} {name} ones"
            for name, (real, generated) in zip(_LABELS, self._counts.tolist(), strict=True)
            if generated > real
        ]
        if more:
            as_drawn = "they make that share of the batches; --synthetic_share sets another"
            if share is not None:
                as_drawn = f"they make {share:.3g} of each half of a batch all the same"
            notes.append(
                f"generated training videos outnumber the real ones, {' and '.join(more)}: "
                f"{as_drawn}"
            )
        return notes + (self._twin_notes() if self._config.pair_twins else [])

    def _twin_notes(self) -> list[str]:
        notes, generated = [], int(self._counts[1, 1])
        if self._num_twinned < generated:
            notes.append(
                f"--pair_twins: {generated - self._num_twinned} of {generated} generated abnormal "
                "videos are paired as drawn: their twin isn't among the training videos, or the "
                "store doesn't name it (encode with --prompts)"
            )
        paired = max((pairs.paired for pairs in self._twin_pairs), default=0.0)
        if 0 < paired < 1:
            notes.append(
                f"--pair_twins: {1 - paired:.0%} of the generated abnormal videos are paired as "
                "drawn: the normal half of a batch has fewer generated videos, and twins don't "
                "replace real ones; --synthetic_share makes both halves alike"
            )
        return notes

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


def _share(counts_2x2: np.ndarray, config: TrainConfig) -> float | None:
    """Returns the share of generated videos in each half of a batch; None for one pool.

    Args:
      counts_2x2: numbers of training videos, by label and source (real, generated).
      config: the run's settings.
    """
    if not isinstance(config.synthetic_share, str):
        return config.synthetic_share
    has_room = 0 < round(AUTO_SHARE * config.batch_size) < config.batch_size
    return AUTO_SHARE if has_room and counts_2x2.all() else None


def _pools(
    members_V: np.ndarray, synthetic_V: np.ndarray, share: float | None, batch_size: int
) -> list[Pool]:
    """Returns the pools of one label, whose videos `members_V` marks."""
    if share is None:
        return [(np.flatnonzero(members_V), batch_size)]
    synthetic = round(share * batch_size)
    if 0 < share < 1 and synthetic in (0, batch_size):
        raise UserError(
            f"--synthetic_share: expected both real and synthetic videos among each label's "
            f"{batch_size} in a batch, found {synthetic} synthetic for a share of {share}; raise "
            "--batch_size, or set the share to 0 or 1"
        )
    pools = []
    for kind, count in ((False, batch_size - synthetic), (True, synthetic)):
        rows = np.flatnonzero(members_V & (synthetic_V == kind))
        if count and not len(rows):
            raise UserError(
                f"--synthetic_share: expected {'synthetic' if kind else 'real'} videos of each "
                f"label for a share of {share}, found a label without any; change the share"
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
