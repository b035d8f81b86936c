"""Tuning the last layer on feedback: by hand, against scikit-learn, and on held-out videos."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gvvad_jax.command import UserError
from tools.adapting import tuning
from tools.adapting.tuning import Snippets

WIDTH = 6


def _snippets(videos=8, signal=3.0, seed=0):
    """Ten snippets a video; of abnormal ones, which the second input tells apart."""
    rng = np.random.default_rng(seed)
    labels_V = np.arange(videos) % 2
    inputs_MxNxC = rng.normal(size=(10 * videos, 2, WIDTH))
    labels_M = np.repeat(labels_V, 10)
    inputs_MxNxC[:, :, 1] += signal * labels_M[:, None]
    return Snippets(inputs_MxNxC, labels_M, np.repeat(np.arange(videos), 10))


LAYER = (np.eye(WIDTH, 1, dtype=np.float32), np.array([0.5], np.float32))  # Of the first input.


def test_scores_are_the_mean_of_the_crops():
    snippets = Snippets(np.array([[[np.log(3) - 0.5], [-0.5]]]), np.array([1]), np.array([0]))
    layer = (np.ones((1, 1), np.float32), LAYER[1])
    assert tuning.scores(layer, snippets)[0] == pytest.approx((0.75 + 0.5) / 2)


def test_measures_by_hand():
    measured = tuning.measure(np.array([0.5, 0.75, 0.75]), np.array([0, 0, 1]))
    losses = (np.log(2) + np.log(4)) / 2, np.log(4 / 3)
    assert measured["auc"] == 0.75
    assert measured["cross_entropy"] == pytest.approx(sum(losses) / 2)


def test_without_a_trained_layer_it_is_a_logistic_regression():
    snippets = _snippets(signal=1.0)
    nothing = (np.zeros((WIDTH, 1)), np.zeros(1))
    kernel_Cx1, bias_1 = tuning.tune(nothing, snippets, strength=1e6)
    rows_RxC, labels_R = snippets.inputs_MxNxC.reshape(-1, WIDTH), np.repeat(snippets.labels_M, 2)
    model = LogisticRegression(C=1e6, tol=1e-10, max_iter=10_000).fit(rows_RxC, labels_R)
    np.testing.assert_allclose(kernel_Cx1[:, 0], model.coef_[0], rtol=1e-3, atol=1e-3)
    assert bias_1[0] == pytest.approx(model.intercept_[0], abs=1e-3)


def test_a_strong_penalty_keeps_the_trained_layer_but_for_its_bias():
    snippets = _snippets()
    kernel_Cx1, bias_1 = tuning.tune(LAYER, snippets, strength=1e-9)
    np.testing.assert_allclose(kernel_Cx1, LAYER[0], atol=1e-6)
    assert kernel_Cx1.dtype == np.float32 and bias_1 != LAYER[1]
    moved = tuning.moved(LAYER, snippets)
    np.testing.assert_array_equal(moved[0], LAYER[0])
    # The mean over crops may change places where crops differ.
    snippets = Snippets(snippets.inputs_MxNxC[:, :1], snippets.labels_M, snippets.videos_M)
    order = [np.argsort(tuning.scores(each, snippets)) for each in (LAYER, moved)]
    np.testing.assert_array_equal(*order)


def test_what_helps_on_held_out_videos_is_better_and_what_does_not_is_not():
    useful = tuning.held_out(LAYER, _snippets(signal=4.0))
    assert useful["better"] and (useful["videos"], useful["snippets"]) == (8, 80)
    assert useful["before"]["auc"] < 0.6 and useful["after"]["auc"] > 0.95
    useless = tuning.held_out(LAYER, _snippets(signal=0.0))
    assert not useless["better"]
    assert useless["after"]["auc"] < 0.6
    table = tuning.describe(useful)
    assert "tuned" in table and f"{useful['after']['auc']:.3f}" in table


def test_each_label_must_be_in_two_videos():
    snippets = _snippets(videos=3)
    with pytest.raises(UserError, match=r"true events \(label 1\) in two videos.* found 1"):
        tuning.require_both("labels.csv", snippets)
    tuning.require_both("labels.csv", _snippets(videos=4))
