"""Batches of pairs: pools, shares, mixup, held-out videos."""

import collections

import numpy as np
import pytest

from gvvad_jax import batches
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig


def _pairs(normal, abnormal, synthetic=(), twins=(), **changes):
    """Batches of normal videos, numbered from 0, and abnormal ones after them.

    `twins` are pairs of (a normal video, its abnormal twin).
    """
    labels_V = np.array([0] * normal + [1] * abnormal)
    synthetic_V = np.isin(np.arange(normal + abnormal), synthetic)
    twins_V = np.full(normal + abnormal, -1)
    for twin, video in twins:
        twins_V[video] = twin
    return batches.Batches(labels_V, synthetic_V, TrainConfig(**changes), twins_V=twins_V)


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


# Eight real and four generated videos of each label.
_ALL = {"normal": 12, "abnormal": 12, "synthetic": (8, 9, 10, 11, 20, 21, 22, 23)}
_TWINS = [(8, 20), (9, 21), (10, 22), (11, 23)]


def _normal_half(pairs, steps=1000):
    """The videos of the normal half over steps, and those of the abnormal one."""
    drawn = np.stack([_videos(pairs, step) for step in range(steps)])
    return drawn[..., 0], drawn[..., 1]


def test_without_the_flag_the_halves_are_drawn_as_ever():
    pairs = _pairs(**_ALL, twins=_TWINS, batch_size=5)
    for label, pool in enumerate((np.arange(12), np.arange(12, 24))):
        order = np.random.default_rng([0, label, 0, 3]).permutation(pool)
        np.testing.assert_array_equal(_videos(pairs, 7)[:, label], order[5:10])


@pytest.mark.parametrize("size", [4, 6, 16])
def test_generated_abnormal_videos_stand_beside_their_twins(size):
    pairs = _pairs(**_ALL, twins=_TWINS, batch_size=size, pair_twins=True)
    plain = _pairs(**_ALL, batch_size=size)
    normal, abnormal = _normal_half(pairs)
    before, abnormal_before = _normal_half(plain)
    np.testing.assert_array_equal(abnormal, abnormal_before)
    twinned = abnormal >= 20
    np.testing.assert_array_equal(normal[twinned], abnormal[twinned] - 12)
    # Everyone else stands beside a real video: the shares of the halves are the same.
    assert (normal[~twinned] < 8).all()
    for videos in (normal, before):
        assert (videos < 8).mean() == pytest.approx(8 / 12, abs=0.01)
    counts = np.bincount(normal.ravel(), minlength=12) / normal.size
    np.testing.assert_allclose(counts, 1 / 12, atol=0.01)
    if size < 12:  # No video is twice in a half.
        assert all(len(set(half)) == size for half in normal.tolist())


def test_the_real_normal_videos_are_those_that_were_drawn_in_their_places_where_possible():
    pairs = _pairs(**_ALL, twins=_TWINS, batch_size=6, pair_twins=True)
    plain = _pairs(**_ALL, batch_size=6)
    for step in range(50):
        (normal, abnormal), before = _videos(pairs, step).T, _videos(plain, step)[:, 0]
        real, drawn = set(normal[normal < 8]), set(before[before < 8])
        assert len(real & drawn) == min(len(real), len(drawn))
        if drawn <= real:
            stays = (before < 8) & (abnormal < 20)
            np.testing.assert_array_equal(normal[stays], before[stays])


def test_a_batch_with_twins_is_a_function_of_seed_and_step():
    one, two = (_pairs(**_ALL, twins=_TWINS, batch_size=6, pair_twins=True) for _ in range(2))
    _videos(one, 0)
    np.testing.assert_array_equal(_videos(one, 5), _videos(two, 5))
    assert (_videos(one, 5) != _videos(one, 6)).any()


def test_with_a_synthetic_share_twins_stay_inside_the_synthetic_part():
    changes = {"batch_size": 8, "synthetic_share": 0.5}
    pairs = _pairs(**_ALL, twins=_TWINS[:3], pair_twins=True, **changes)
    plain = _pairs(**_ALL, **changes)
    for step in range(30):
        drawn, before = _videos(pairs, step), _videos(plain, step)
        np.testing.assert_array_equal(drawn[:4], before[:4])
        np.testing.assert_array_equal(drawn[4:, 1], before[4:, 1])
        # Number 23 has no twin: the one normal video that is nobody's twin is left for it.
        assert {tuple(pair) for pair in drawn[4:].tolist()} == set(_TWINS)
    assert pairs.notes() == [
        "--pair_twins: 1 of 4 generated abnormal videos are paired as drawn: their twin isn't "
        "among the training videos, or the store doesn't name it (encode with --prompts)"
    ]


def test_videos_without_twins_are_paired_as_drawn():
    pairs = _pairs(**_ALL, batch_size=6, pair_twins=True)
    plain = _pairs(**_ALL, batch_size=6)
    for step in range(10):
        np.testing.assert_array_equal(_videos(pairs, step), _videos(plain, step))
    assert "4 of 4 generated abnormal videos are paired as drawn" in pairs.notes()[0]


def test_where_one_twin_is_absent_all_normal_videos_are_as_frequent_as_before():
    pairs = _pairs(**_ALL, twins=_TWINS[:3], batch_size=6, pair_twins=True)
    normal, abnormal = _normal_half(pairs, 2000)
    twinned = (abnormal >= 20) & (abnormal < 23)
    np.testing.assert_array_equal(normal[twinned], abnormal[twinned] - 12)
    counts = np.bincount(normal.ravel(), minlength=12) / normal.size
    np.testing.assert_allclose(counts, 1 / 12, atol=0.01)


def test_where_real_abnormal_videos_are_rare_twins_push_no_real_normal_video_out():
    # Of normal videos 4 of 12 are generated, of abnormal ones 4 of 6: half can stand beside twins.
    generated, twins = (8, 9, 10, 11, 14, 15, 16, 17), [(8, 14), (9, 15), (10, 16), (11, 17)]
    pairs = _pairs(12, 6, generated, twins, batch_size=6, pair_twins=True)
    normal, abnormal = _normal_half(pairs, 1000)
    twinned = abnormal >= 14
    beside = normal[twinned] == abnormal[twinned] - 6
    assert beside.mean() == pytest.approx(0.5, abs=0.01)
    assert (normal[twinned][~beside] < 8).all() and (normal[~twinned] < 8).all()
    assert (normal < 8).mean() == pytest.approx(8 / 12, abs=0.01)
    assert pairs.notes() == [
        "generated training videos outnumber the real ones, 4 to 2 abnormal ones: they make that "
        "share of the batches; --synthetic_share sets another",
        "--pair_twins: 50% of the generated abnormal videos are paired as drawn: the normal half "
        "of a batch has fewer generated videos, and twins don't replace real ones; "
        "--synthetic_share makes both halves alike",
    ]


def test_several_videos_may_have_one_twin():
    pairs = _pairs(6, 6, synthetic=(5, 10, 11), twins=[(5, 10), (5, 11)], batch_size=4,
                   synthetic_share=0.5, pair_twins=True)  # fmt: skip
    for step in range(5):
        assert sorted(_videos(pairs, step)[2:].tolist()) == [[5, 10], [5, 11]]


def test_mixup_and_lambdas_held_out_videos_go_with_twins():
    labels_V = np.array([0] * 12 + [1] * 12)
    held_out_V = np.isin(np.arange(24), (0, 1, 12, 13))
    synthetic_V = np.isin(np.arange(24), _ALL["synthetic"])
    twins_V = np.where(np.arange(24) >= 20, np.arange(24) - 12, -1)
    config = TrainConfig(batch_size=6, lambda_mode="meta", mixup=0.4, pair_twins=True)
    drawn = batches.Batches(labels_V, synthetic_V, config, held_out_V, twins_V)
    for step in range(20):
        batch = drawn.at(step)
        normal, abnormal = batch.videos_Bx2.T
        np.testing.assert_array_equal(normal[abnormal >= 20], abnormal[abnormal >= 20] - 12)
        assert not held_out_V[batch.videos_Bx2].any() and held_out_V[batch.held_out_Bx2].all()
        assert (synthetic_V[batch.videos_Bx2] != synthetic_V[batch.partners_Bx2]).all()
        assert (labels_V[batch.partners_Bx2] == [0, 1]).all()
        assert batch.videos_Bx2.dtype == np.int32 and batch.videos_Bx2.shape == (6, 2)


def test_the_automatic_share_is_a_half_where_both_sources_have_both_labels():
    pairs = _pairs(**_ALL, batch_size=8, synthetic_share="auto")
    fixed = _pairs(**_ALL, batch_size=8, synthetic_share=0.5)
    for step in range(5):
        np.testing.assert_array_equal(_videos(pairs, step), _videos(fixed, step))
        # No pair mixes sources.
        generated = (_videos(pairs, step) % 12 >= 8).tolist()
        assert generated == [[False, False]] * 4 + [[True, True]] * 4
    assert pairs.notes() == ["--synthetic_share=auto: 0.5 of each half of a batch is generated"]
    assert fixed.notes() == []
    # Two of three pairs.
    odd = _pairs(**_ALL, batch_size=3, synthetic_share="auto")
    assert odd.notes() == ["--synthetic_share=auto: 0.667 of each half of a batch is generated"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"synthetic": (20, 21)}, "a label has videos of one source only"),
        ({"batch_size": 1}, "batches of 1 pairs have no room for both"),
    ],
)
def test_the_automatic_share_falls_back_to_one_pool(changes, why):
    pairs = _pairs(**_ALL | {"batch_size": 8, "synthetic_share": "auto"} | changes)
    plain = _pairs(**_ALL | {"batch_size": 8} | changes)
    np.testing.assert_array_equal(_videos(pairs, 3), _videos(plain, 3))
    assert pairs.notes() == [
        f"--synthetic_share=auto: real and generated videos form one pool: {why}"
    ]


def test_generated_videos_that_outnumber_the_real_ones_of_a_label_are_reported(capsys):
    _pairs(6, 5, synthetic=(3, 4, 5, 8, 9, 10)).report()
    assert capsys.readouterr().err == (
        "generated training videos outnumber the real ones, 3 to 2 abnormal ones: they make that "
        "share of the batches; --synthetic_share sets another\n"
    )
    pairs = _pairs(5, 5, synthetic=(1, 2, 3, 4, 7, 8, 9), batch_size=4, synthetic_share=0.5)
    assert pairs.notes() == [
        "generated training videos outnumber the real ones, 4 to 1 normal ones and 3 to 2 "
        "abnormal ones: they make 0.5 of each half of a batch all the same"
    ]
    assert _pairs(5, 5).notes() == []
