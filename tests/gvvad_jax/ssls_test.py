"""SSLS: the weight of synthetic videos, and the ways to set lambda."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvvad_jax import detectors, losses, ssls
from gvvad_jax.command import UserError
from gvvad_jax.config import LAMBDA_MODES, TrainConfig
from gvvad_jax.detectors import rtfm
from gvvad_jax.detectors.layers import Outputs

REFERENCE = TrainConfig(fidelity="reference")
SYNTHETIC_Bx2 = jnp.array([[True, False], [False, True]])


def _terms():
    single = losses.Term(
        values_M=jnp.array([1.0, 2.0, 3.0, 4.0]), videos_MxJ=jnp.arange(4)[:, None], weight=1.0
    )
    pair = losses.Term(
        values_M=jnp.array([10.0, 20.0]), videos_MxJ=jnp.array([[0, 1], [1, 2]]), weight=0.5
    )
    return {"single": single, "pair": pair}


def test_paper_weights_by_hand():
    total, parts = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(0.5), TrainConfig())
    # Videos 0 and 3 are synthetic. Singles: (0.5 + 2 + 3 + 2) / 4; pair (0, 1) weighs 0.5, the
    # pair (1, 2) 1: 0.5 (5 + 20) / 2.
    np.testing.assert_allclose(total, 7.5 / 4 + 0.5 * 25 / 2)
    np.testing.assert_allclose(parts["cost"], 10 / 4 + 0.5 * 30 / 2)
    np.testing.assert_allclose(parts["cost_real"], 5 / 4 + 0.5 * 20 / 2)
    np.testing.assert_allclose(parts["cost_synthetic"], 5 / 4 + 0.5 * 10 / 2)


def test_a_lambda_above_one_leaves_mixed_pairs_at_the_real_weight():
    total, _ = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(2.0), TrainConfig())
    np.testing.assert_allclose(total, (2 + 2 + 3 + 8) / 4 + 0.5 * 30 / 2)


def test_reference_scales_the_whole_batch_by_the_abnormal_half():
    total, parts = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(0.5), REFERENCE)
    # One of two abnormal videos is synthetic; the synthetic normal one isn't looked at.
    np.testing.assert_allclose(total, parts["cost"] * (0.5 + 0.5 * 0.5))


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_lambda_one_is_no_scaling(fidelity):
    config = TrainConfig(fidelity=fidelity)
    total, parts = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(1.0), config)
    np.testing.assert_allclose(total, parts["cost"])


@pytest.mark.parametrize("name", ["rtfm", "lap"])
def test_a_synthetic_videos_gradient_is_linear_in_lambda_and_zero_at_zero(name):
    """Selections are held fixed by asking for the gradient at one point."""
    config = TrainConfig(detector=name, dropout=0.0)
    rng = np.random.default_rng(0)
    outputs = Outputs(
        scores_VxT=jnp.asarray(rng.uniform(0.1, 0.9, (4, 7)), jnp.float32),
        features_VxNxTxD=jnp.asarray(rng.normal(size=(4, 2, 7, 5)), jnp.float32),
        extra={"selected": jnp.asarray([[4, 1, 0], [0, 2, 5], [6, 3, 1], [5, 1, 2]])},
    )
    text_VxTxE = jnp.asarray(rng.normal(size=(4, 7, 6)), jnp.float32)
    bank_KxE = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)

    @jax.jit
    @functools.partial(jax.grad, allow_int=True)
    def gradient(outputs, lambda_):
        terms = detectors.by_name(name).loss_terms(outputs, text_VxTxE, bank_KxE, config)
        return ssls.scaled_loss(terms, SYNTHETIC_Bx2, lambda_, config)[0]

    zero, half, one = (gradient(outputs, lambda_) for lambda_ in (0.0, 0.5, 1.0))
    for video in (0, 3):
        for field in ("scores_VxT", "features_VxNxTxD"):
            at = [np.asarray(getattr(g, field))[video] for g in (zero, half, one)]
            np.testing.assert_array_equal(at[0], 0.0)
            np.testing.assert_allclose(at[1], 0.5 * at[2], rtol=1e-5, atol=1e-9)
            assert np.abs(at[2]).max() > 0
    # A real video's own bag loss doesn't feel lambda.
    bag = dataclasses.replace(config, magnitude_weight=0.0)
    terms = rtfm.loss_terms(outputs, None, None, bag)
    real = [ssls.term_value(terms["bag"], ssls.video_weights(SYNTHETIC_Bx2.reshape(-1), w))
            for w in (0.0, 1.0)]  # fmt: skip
    values = np.asarray(terms["bag"].values_M)
    np.testing.assert_allclose(real[1] - real[0], (values[0] + values[3]) / 4, rtol=1e-5)


def _at(step, **changes):
    config = TrainConfig(**({"lambda_mode": "scheduled", "lambda_value": 2.0} | changes))
    return float(ssls.lambda_of({}, jnp.array(step), config))


def test_every_mode_starts_at_lambda_value():
    for name in LAMBDA_MODES:
        config = TrainConfig(lambda_mode=name, lambda_value=0.3)
        params = ssls.init_lambda(config)
        assert ("lambda" in params) == (name not in ("fixed", "scheduled", "auto"))
        lambda_ = ssls.lambda_of(params, jnp.array(0), config)
        assert lambda_.dtype == jnp.float32 and lambda_.shape == ()
        np.testing.assert_allclose(lambda_, 0.3, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("rise", "factor"),
    [
        # 1000 steps, so the rise takes 100; half and a quarter of it.
        ("none", (1.0, 1.0)),
        ("linear", (0.001 + 0.999 * 0.5, 0.001 + 0.999 * 0.25)),
        ("exponential", (0.001 * 1000**0.5, 0.001 * 1000**0.25)),
        ("cosine", (0.001 + 0.4995, 0.001 + 0.4995 * (1 - np.cos(np.pi / 4)))),
    ],
)
def test_rises_by_hand(rise, factor):
    settings = {"lambda_rise": rise, "lambda_shift": 0}
    np.testing.assert_allclose(_at(50, **settings), 2 * factor[0], rtol=1e-5)
    np.testing.assert_allclose(_at(25, **settings), 2 * factor[1], rtol=1e-5)
    assert _at(100, **settings) == 2.0


def test_decays_by_hand():
    for decay, expected in {
        "none": {100: 1.0, 550: 1.0, 999: 1.0},
        "cosine": {100: 1.0, 550: 0.5, 775: (1 + np.cos(np.pi * 0.75)) / 2},
        "half": {100: 1.0, 300: 0.5, 500: 0.0, 999: 0.0},
        "step": {100: 1.0, 299: 1.0, 300: 0.1, 500: 0.01, 999: 1e-4},
    }.items():
        for step, factor in expected.items():
            lambda_ = _at(step, lambda_decay=decay, lambda_shift=0)
            np.testing.assert_allclose(lambda_, 2 * factor, rtol=1e-4, atol=1e-7)


def test_past_the_end_the_cosine_stays_at_zero_but_as_published():
    settings = {"steps": 150, "lambda_decay": "cosine"}
    assert _at(149, **settings) == 0.0
    # n = 249, W = 15: beyond its first whole turn down, nearly up again.
    expected = 1 + np.cos(np.pi * 234 / 135)
    np.testing.assert_allclose(_at(149, fidelity="reference", **settings), expected, rtol=1e-4)


def test_as_published_the_schedule_is_100_steps_ahead():
    assert _at(0) == 2.0  # So 1000 steps have no rise,
    np.testing.assert_allclose(_at(0, steps=10_000), 2 * (0.001 + 0.999 * 0.1), rtol=1e-5)
    np.testing.assert_allclose(_at(200, lambda_decay="step"), 0.2, rtol=1e-5)


@pytest.mark.parametrize("mode", LAMBDA_MODES)
@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_lambdas_gradient_against_finite_differences(mode, fidelity):
    config = TrainConfig(lambda_mode=mode, fidelity=fidelity)

    def total(lambda_):
        return ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, lambda_, config)[0]

    gradient = jax.grad(total)(jnp.array(0.4))
    difference = (total(jnp.array(0.41)) - total(jnp.array(0.39))) / 0.02
    np.testing.assert_allclose(gradient, difference, rtol=2e-3)
    # By hand: the synthetic cost, or as published half of all, less 1 / lambda a synthetic video.
    costs = {"paper": 5 / 4 + 0.5 * 10 / 2, "reference": 0.5 * (10 / 4 + 0.5 * 30 / 2)}
    penalty = -0.5 / 0.4 if mode == "uncertainty" else 0.0
    np.testing.assert_allclose(gradient, costs[fidelity] + penalty, rtol=1e-5)


def test_uncertainty_settles_at_one_over_the_synthetic_videos_mean_loss():
    """Gradient descent on s alone, losses held fixed; the learned weight doesn't vanish."""
    config = TrainConfig(lambda_mode="uncertainty", lambda_value=0.9)
    single = {"single": _terms()["single"]}

    def total(params):
        lambda_ = ssls.lambda_of(params, jnp.array(0), config)
        return ssls.scaled_loss(single, SYNTHETIC_Bx2, lambda_, config)[0]

    params = ssls.init_lambda(config)
    step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 0.5 * g, p, jax.grad(total)(p)))
    for _ in range(100):
        params = step(params)
    # The synthetic videos 0 and 3 have losses 1 and 4.
    np.testing.assert_allclose(ssls.lambda_of(params, jnp.array(0), config), 1 / 2.5, rtol=1e-3)


@pytest.mark.parametrize("mode", ["sigmoid", "softplus", "meta"])
def test_bounded_lambdas_stay_in_their_bounds(mode):
    config = TrainConfig(lambda_mode=mode, lambda_value=0.1)
    for raw in np.linspace(-80, 80, 41):
        value = float(ssls.lambda_of({"lambda": jnp.array(raw)}, jnp.array(0), config))
        assert value > 0 and (value <= 1 or mode == "softplus")


@pytest.mark.parametrize(
    ("mode", "value"),
    [("sigmoid", 1.0), ("softplus", 0.0), ("uncertainty", -1.0), ("meta", 0.0), ("meta", 1.5)],
)
def test_a_start_outside_the_bounds_is_refused(mode, value):
    with pytest.raises(UserError, match=f"--lambda_value: expected between 0 .*{mode}"):
        TrainConfig(lambda_mode=mode, lambda_value=value)


def test_the_cost_that_lambda_scales_is_logged_for_each_fidelity():
    for config, expected in ((TrainConfig(), 5 / 4 + 0.5 * 10 / 2), (REFERENCE, 0.5 * 10)):
        _, parts = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(0.5), config)
        np.testing.assert_allclose(parts["cost_scaled"], expected)


def test_a_large_softplus_start_does_not_overflow():
    config = TrainConfig(lambda_mode="softplus", lambda_value=1000.0)
    lambda_ = ssls.lambda_of(ssls.init_lambda(config), jnp.array(0), config)
    np.testing.assert_allclose(lambda_, 1000.0)


def test_a_mixture_counts_by_its_parts():
    weights = ssls.video_weights(jnp.array([0.0, 0.25, 1.0]), jnp.array(0.2))
    np.testing.assert_allclose(weights, [1.0, 0.8, 0.2], rtol=1e-6)
