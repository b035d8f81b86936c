"""Batches of pairs: pools, shares, mixup, held-out videos."""

import collections

import numpy as np
import pytest

from gvvad_jax import batches
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig


def _pairs(normal, abnormal, synthetic=(), **changes):
    labels_V = np.array([0] * normal + [1] * abnormal)
    synthetic_V = np.isin(np.arange(normal + abnormal), synthetic)
    return batches.Batches(labels_V, synthetic_V, TrainConfig(**changes))


def _videos(drawn, step):
    return drawn.at(step).videos_Bx2


def test_pairs_are_normal_then_abnormal():
    drawn = _videos(_pairs(6, 5, batch_size=4), 3)
    assert drawn.shape == (4, 2)
    assert (drawn[:, 0] < 6).all() and (drawn[:, 1] >= 6).all()


def test_a_pass_draws_without_replacement_and_drops_the_short_batch():
    pairs = _pairs(7, 9, batch_size=3)
    first_pass = np.concatenate([_videos(pairs, step)[:, 0] for step in range(2)])
    assert len(set(first_pass)) == 6
    second_pass = np.concatenate([_videos(pairs, step)[:, 0] for step in (2, 3)])
    assert len(set(second_pass)) == 6 and list(first_pass) != list(second_pass)


def test_a_label_with_fewer_videos_than_the_batch_cycles():
    pairs = _pairs(3, 20, batch_size=8)
    drawn = np.concatenate([_videos(pairs, step)[:, 0] for step in range(3)])
    assert collections.Counter(drawn.tolist()) == {0: 8, 1: 8, 2: 8}


def test_the_batch_is_a_function_of_seed_and_step():
    one, two = _pairs(9, 9, batch_size=4), _pairs(9, 9, batch_size=4)
    _videos(two, 0)
    np.testing.assert_array_equal(_videos(one, 5), _videos(two, 5))
    assert (_videos(_pairs(9, 9, batch_size=4, seed=1), 5) != _videos(one, 5)).any()


def test_the_synthetic_share_holds_in_every_batch():
    pairs = _pairs(8, 8, synthetic=(6, 7, 14, 15), batch_size=4, synthetic_share=0.25)
    for step in range(6):
        drawn = _videos(pairs, step)
        assert np.isin(drawn[:, 0], (6, 7)).sum() == 1
        assert np.isin(drawn[:, 1], (14, 15)).sum() == 1
    with pytest.raises(UserError, match="synthetic_share"):
        _pairs(8, 8, batch_size=4, synthetic_share=0.5)
    for share in (0.1, 0.9):
        with pytest.raises(
            UserError, match=rf"among each label's 4 .* {share}; raise --batch_size"
        ):
            _pairs(8, 8, synthetic=(6, 7, 14, 15), batch_size=4, synthetic_share=share)


def test_mixup_partners_have_the_label_and_the_other_source():
    synthetic = (5, 6, 7, 14)
    drawn = _pairs(8, 7, synthetic=synthetic, batch_size=6, mixup=0.4)
    shares = []
    for step in range(30):
        batch = drawn.at(step)
        own, partners = batch.videos_Bx2, batch.partners_Bx2
        assert (partners[:, 0] < 8).all() and (partners[:, 1] >= 8).all()
        assert (np.isin(own, synthetic) != np.isin(partners, synthetic)).all()
        shares.append(batch.shares_Bx2)
    # A video stays the larger part of its mixture; Beta(0.4, 0.4) is mostly near the ends.
    assert np.min(shares) >= 0.5 and np.max(shares) <= 1.0 and 0.8 < np.mean(shares) < 0.9
    np.testing.assert_array_equal(drawn.at(3).shares_Bx2, shares[3])


def test_a_label_of_one_source_is_not_mixed():
    batch = _pairs(4, 4, synthetic=(6,), batch_size=4, mixup=1.0).at(0)
    np.testing.assert_array_equal(batch.partners_Bx2[:, 0], batch.videos_Bx2[:, 0])
    assert (batch.partners_Bx2[:, 1] != batch.videos_Bx2[:, 1]).all()
    assert _pairs(4, 4, batch_size=4).at(0).partners_Bx2 is None


def test_held_out_videos_are_in_no_training_pair():
    labels_V = np.array([0] * 6 + [1] * 6)
    held_out_V = np.isin(np.arange(12), (0, 1, 6))
    config = TrainConfig(batch_size=3, lambda_mode="meta")
    drawn = batches.Batches(labels_V, np.zeros(12, bool), config, held_out_V)
    for step in range(6):
        batch = drawn.at(step)
        assert not held_out_V[batch.videos_Bx2].any() and held_out_V[batch.held_out_Bx2].all()
        assert (labels_V[batch.held_out_Bx2] == [0, 1]).all()
    seen = {row for step in range(3) for row in drawn.at(step).held_out_Bx2.ravel().tolist()}
    assert seen == {0, 1, 6}
