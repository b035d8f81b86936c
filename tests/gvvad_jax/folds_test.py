import numpy as np
import pytest

from gvvad_jax import folds


def test_the_interval_is_nadeau_and_bengios():
    # Mean 0.2, variance 0.01; t(2) = 4.302653; sqrt((1/3 + 1/4) 0.01) = 0.0763763.
    low, high = folds.corrected_interval(np.array([0.1, 0.2, 0.3]), 0.25)
    assert (low, high) == pytest.approx((0.2 - 0.328621, 0.2 + 0.328621), abs=1e-5)
    assert folds.corrected_interval(np.zeros(5), 0.25) == (0.0, 0.0)
    assert folds.corrected_interval(np.array([0.1]), 0.25) is None


def test_folds_are_even_in_both_labels_and_keep_groups_whole():
    labels_V = np.array([0] * 10 + [1] * 5)
    rng = np.random.default_rng(0)
    alone_V = folds.group_folds(labels_V, np.arange(15).astype(str), 5, rng)
    for fold in range(5):
        np.testing.assert_array_equal(np.bincount(labels_V[alone_V == fold]), [2, 1])
    groups_V = np.array([f"camera {i // 3}" for i in range(15)])
    fold_V = folds.group_folds(labels_V, groups_V, 2, rng)
    assert all(len(set(fold_V[groups_V == group])) == 1 for group in groups_V)
    assert set(fold_V) == {0, 1}
    again_V = folds.group_folds(labels_V, groups_V, 2, np.random.default_rng(3))
    np.testing.assert_array_equal(
        again_V, folds.group_folds(labels_V, groups_V, 2, np.random.default_rng(3))
    )
