"""Learning from feedback: by hand, against scikit-learn, and on held-out videos."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gvvad_jax import adaptation, scoring
from gvvad_jax.adaptation import Correction
from gvvad_jax.command import UserError
from gvvad_jax.standardisation import Standardisation
from tests.support.stores import CROPS, DIM
from tools.adapting import tuning
from tools.adapting.camera import Footage
from tools.adapting.tuning import Snippets

WIDTH = 6


def _snippets(videos=8, signal=3.0, seed=0):
    """Ten snippets a video, abnormal and normal in turn, told apart by the second feature."""
    rng = np.random.default_rng(seed)
    labels_M = np.repeat(np.arange(videos) % 2, 10)
    rows_MxD = rng.normal(size=(10 * videos, WIDTH))
    rows_MxD[:, 1] += signal * labels_M
    logits_M = rng.normal(size=10 * videos)
    return Snippets(rows_MxD, logits_M, labels_M, np.repeat(np.arange(videos), 10))


def test_scores_and_measures_by_hand():
    snippets = Snippets(np.array([[1.0, 2.0]]), np.array([0.5]), np.array([1]), np.array([0]))
    correction = Correction(np.array([0.25, -0.5], np.float32), 1.0)
    assert tuning.scores(correction, snippets)[0] == pytest.approx(1 / (1 + np.exp(-0.75)))
    assert tuning.scores(None, snippets)[0] == pytest.approx(1 / (1 + np.exp(-0.5)))
    measured = tuning.measure(np.array([0.5, 0.75, 0.75]), np.array([0, 0, 1]))
    losses = (np.log(2) + np.log(4)) / 2, np.log(4 / 3)
    assert measured["auc"] == 0.75
    assert measured["cross_entropy"] == pytest.approx(sum(losses) / 2)


def test_of_scores_that_say_nothing_it_is_a_logistic_regression():
    snippets = dataclasses.replace(_snippets(signal=1.0), logits_M=np.zeros(80))
    found = tuning.learn(snippets, strength=1e6)
    model = LogisticRegression(C=1e6, tol=1e-10, max_iter=10_000)
    model.fit(snippets.rows_MxD, snippets.labels_M)
    np.testing.assert_allclose(found.weights_D, model.coef_[0], rtol=1e-3, atol=1e-3)
    assert found.bias == pytest.approx(model.intercept_[0], abs=1e-3)


def test_what_scores_say_already_is_not_learned_again():
    snippets = _snippets()
    logits_M = 2 * snippets.rows_MxD[:, 1] - 3.0
    again = tuning.learn(dataclasses.replace(snippets, logits_M=logits_M), 1.0)
    first = tuning.learn(snippets, 1.0)
    assert abs(again.weights_D[1]) < abs(first.weights_D[1]) / 2
    # A strong penalty leaves a shift of all scores alone.
    shifted, moved = tuning.learn(snippets, 1e-9), tuning.move(snippets)
    np.testing.assert_allclose(shifted.weights_D, np.zeros(WIDTH), atol=1e-6)
    assert shifted.bias == pytest.approx(moved.bias, abs=1e-6) and not moved.weights_D.any()


def test_what_helps_on_held_out_videos_is_better_and_what_does_not_is_not():
    useful = tuning.held_out(_snippets(signal=4.0))
    assert useful["better"] and (useful["videos"], useful["snippets"]) == (8, 80)
    assert useful["before"]["auc"] < 0.6 and useful["after"]["auc"] > 0.9
    useless = tuning.held_out(_snippets(signal=0.0))
    assert not useless["better"] and useless["after"]["auc"] < 0.65
    table = tuning.describe(useful)
    assert "with feedback" in table and f"{useful['after']['auc']:.3f}" in table


def test_each_label_must_be_in_two_videos():
    with pytest.raises(UserError, match=r"true events \(label 1\) in two videos.* found 1"):
        tuning.require_both("labels.csv", _snippets(videos=3))
    tuning.require_both("labels.csv", _snippets(videos=4))


def test_a_detector_with_a_correction_gives_the_scores_that_were_measured(trained):
    model = scoring.load(trained("mil_rank")[0].workdir)
    standard = Standardisation(np.full(DIM, 0.5, np.float32), np.full(DIM, 2.0, np.float32))
    model = dataclasses.replace(model, standard=standard)
    rng = np.random.default_rng(0)
    features = {i: rng.normal(size=(7, CROPS, DIM)).astype(np.float32) for i in ("a", "b")}
    footage = Footage(features, dict.fromkeys(features, np.zeros((7, 2))))
    labels = {"a": np.array([0, 0, -1, 1, -1, -1, -1]), "b": np.array([-1, 1, -1, -1, -1, -1, 0])}
    snippets = tuning.gather(model, footage, labels)
    assert snippets.labels_M.tolist() == [0, 0, 1, 1, 0]
    assert snippets.videos_M.tolist() == [0, 0, 0, 1, 1]
    correction = tuning.learn(snippets)
    step = adaptation.corrected(model.score_step, correction)
    scores = dataclasses.replace(model, score_step=step).score(features)
    with_M = np.concatenate([scores[i][labels[i] >= 0] for i in ("a", "b")])
    np.testing.assert_allclose(with_M, tuning.scores(correction, snippets), rtol=1e-3, atol=1e-5)
