"""SSLS: what a synthetic video weighs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvvad_jax import detectors, losses, ssls
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors import rtfm
from gvvad_jax.detectors.mtn import Outputs

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
    total, parts = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(0.5), "paper")
    # Videos 0 and 3 are synthetic. Singles: (0.5 + 2 + 3 + 2) / 4; pair (0, 1) weighs 0.5, the
    # pair (1, 2) 1: 0.5 (5 + 20) / 2.
    np.testing.assert_allclose(total, 7.5 / 4 + 0.5 * 25 / 2)
    np.testing.assert_allclose(parts["cost"], 10 / 4 + 0.5 * 30 / 2)
    np.testing.assert_allclose(parts["cost_real"], 5 / 4 + 0.5 * 20 / 2)
    np.testing.assert_allclose(parts["cost_synthetic"], 5 / 4 + 0.5 * 10 / 2)


def test_a_lambda_above_one_leaves_mixed_pairs_at_the_real_weight():
    total, _ = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(2.0), "paper")
    np.testing.assert_allclose(total, (2 + 2 + 3 + 8) / 4 + 0.5 * 30 / 2)


def test_reference_scales_the_whole_batch_by_the_abnormal_half():
    total, parts = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(0.5), "reference")
    # One of two abnormal videos is synthetic; the synthetic normal one isn't looked at.
    np.testing.assert_allclose(total, parts["cost"] * (0.5 + 0.5 * 0.5))


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_lambda_one_is_no_scaling(fidelity):
    total, parts = ssls.scaled_loss(_terms(), SYNTHETIC_Bx2, jnp.array(1.0), fidelity)
    np.testing.assert_allclose(total, parts["cost"])


@pytest.mark.parametrize("name", ["rtfm", "lap"])
def test_a_synthetic_videos_gradient_is_linear_in_lambda_and_zero_at_zero(name):
    """Selections are held fixed by asking for the gradient at one point."""
    config = TrainConfig(detector=name, dropout=0.0)
    rng = np.random.default_rng(0)
    outputs = Outputs(
        scores_VxT=jnp.asarray(rng.uniform(0.1, 0.9, (4, 7)), jnp.float32),
        features_VxNxTxD=jnp.asarray(rng.normal(size=(4, 2, 7, 5)), jnp.float32),
    )
    text_VxTxE = jnp.asarray(rng.normal(size=(4, 7, 6)), jnp.float32)
    bank_KxE = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)

    def gradient(lambda_):
        def loss(outputs):
            terms = detectors.by_name(name).loss_terms(outputs, text_VxTxE, bank_KxE, config, None)
            return ssls.scaled_loss(terms, SYNTHETIC_Bx2, jnp.array(lambda_), "paper")[0]

        return jax.jit(jax.grad(loss))(outputs)

    zero, half, one = gradient(0.0), gradient(0.5), gradient(1.0)
    for video in (0, 3):
        for field in ("scores_VxT", "features_VxNxTxD"):
            at = [np.asarray(getattr(g, field))[video] for g in (zero, half, one)]
            np.testing.assert_array_equal(at[0], 0.0)
            np.testing.assert_allclose(at[1], 0.5 * at[2], rtol=1e-5, atol=1e-9)
            assert np.abs(at[2]).max() > 0
    # A real video's own bag loss doesn't feel lambda.
    bag = dataclasses.replace(config, magnitude_weight=0.0)
    terms = rtfm.loss_terms(outputs, None, None, bag, None)
    real = [ssls.term_value(terms["bag"], ssls.video_weights(SYNTHETIC_Bx2.reshape(-1), w))
            for w in (0.0, 1.0)]  # fmt: skip
    values = np.asarray(terms["bag"].values_M)
    np.testing.assert_allclose(real[1] - real[0], (values[0] + values[3]) / 4, rtol=1e-5)


def test_a_learned_lambda_is_a_parameter():
    fixed, learned = TrainConfig(), TrainConfig(lambda_mode="learnable", lambda_value=0.1)
    assert ssls.init_lambda(fixed) == {}
    params = ssls.init_lambda(learned)
    np.testing.assert_allclose(ssls.lambda_of(params, learned), 0.1)
    np.testing.assert_allclose(ssls.lambda_of({"lambda": jnp.array(0.7)}, learned), 0.7)
    np.testing.assert_allclose(ssls.lambda_of({}, fixed), 0.5)
