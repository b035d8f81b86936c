"""The training step: shapes, one trace, known numbers, what reaches the parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvvad_jax import detectors, ssls, step
from gvvad_jax.config import DETECTORS, TrainConfig

SMALL = {"head_widths": (16, 8), "mtn_channels": 4, "batch_size": 2, "segments": 6}


def _data(dim=12, text_dim=8, videos=8):
    rng = np.random.default_rng(0)
    return step.TrainingData(
        visual_VxNxTxD=jnp.asarray(rng.normal(size=(videos, 2, 6, dim)), jnp.float32),
        text_VxTxE=jnp.asarray(rng.normal(size=(videos, 6, text_dim)), jnp.float32),
        synthetic_V=jnp.arange(videos) % 4 > 1,
        bank_KxE=jnp.eye(3, text_dim),
    )


VIDEOS_Bx2 = jnp.array([[0, 1], [2, 3]])
PAIRS_B = jnp.arange(2)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("fidelity", ["paper", "reference"])
def test_steps_keep_shapes_trace_once_and_lower_the_loss(name, fidelity):
    config = TrainConfig(detector=name, fidelity=fidelity, dropout=0.0, **SMALL)
    state = step.init_state(config, 12, 8)
    chex.clear_trace_counter()
    train_step = jax.jit(chex.assert_max_traces(step.make_train_step(config), n=1))
    first = state
    losses = []
    for _ in range(8):
        state, metrics = train_step(state, _data(), VIDEOS_Bx2, PAIRS_B)
        losses.append(float(metrics["loss"]))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
    chex.assert_tree_all_finite(state.params)
    assert int(state.step) == 8
    assert losses[-1] < losses[0]
    assert {"loss", "cost", "cost_real", "cost_synthetic", "lambda", "grad_norm"} <= set(metrics)
    chex.assert_shape(list(metrics.values()), ())


def test_the_same_seed_gives_the_same_steps_and_another_does_not():
    def run(seed):
        config = TrainConfig(detector="rtfm", seed=seed, **SMALL)
        state = step.init_state(config, 12, 8)
        train_step = jax.jit(step.make_train_step(config))
        return float(train_step(state, _data(), VIDEOS_Bx2, PAIRS_B)[1]["loss"])

    zero = run(0)
    assert run(0) == zero
    assert run(1) != zero


def test_weight_decay_is_coupled_as_in_pytorch():
    """One step by hand: Adam's first update is lr * sign(gradient + l2 * parameter)."""
    optimizer = step.make_optimizer(TrainConfig(learning_rate=0.1, l2=0.5))
    params = {"w": jnp.array([2.0, -2.0])}
    grads = {"w": jnp.array([-0.9, 0.9])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # Coupled: -0.9 + 0.5 * 2 = 0.1 > 0, so down. AdamW would go up.
    np.testing.assert_allclose(updates["w"], [-0.1, 0.1], rtol=1e-4)


def _parameter_gradient(name, lambda_, data):
    """Gradient of the scaled loss with BatchNorm's statistics and all selections held fixed."""
    config = TrainConfig(detector=name, lambda_value=lambda_, **SMALL)
    state = step.init_state(config, 12, 8)
    file = detectors.by_name(name)

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        batch = step.take(data, VIDEOS_Bx2.reshape(-1))
        visual, text = batch.visual_VxNxTxD, batch.text_VxTxE
        outputs = file.Detector(config).apply(variables, visual, text)
        terms = file.loss_terms(outputs, text, data.bank_KxE, config, None)
        synthetic_Bx2 = batch.synthetic_V.reshape(-1, 2)
        return ssls.scaled_loss(terms, synthetic_Bx2, jnp.array(lambda_), "paper")[0]

    return jax.jit(jax.grad(loss))(state.params["detector"])


@pytest.mark.parametrize("name", DETECTORS)
def test_the_parameters_gradient_is_linear_in_lambda(name):
    zero, half, one = (_parameter_gradient(name, x, _data()) for x in (0.0, 0.5, 1.0))
    expected = jax.tree.map(lambda a, b: (a + b) / 2, zero, one)
    chex.assert_trees_all_close(half, expected, atol=1e-6)
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), zero, one)
    assert max(jax.tree.leaves(difference)) > 1e-3


def test_at_lambda_zero_a_synthetic_videos_features_reach_no_parameter():
    """But for BatchNorm's statistics, which are held fixed here."""
    data = _data()
    # Videos 2 and 3 are the batch's synthetic pair.
    changed = data.replace(visual_VxNxTxD=data.visual_VxNxTxD.at[2:4].multiply(-3.0))
    before, after = (_parameter_gradient("rtfm", 0.0, d) for d in (data, changed))
    chex.assert_trees_all_close(before, after, atol=1e-7)
    before, after = (_parameter_gradient("rtfm", 0.5, d) for d in (data, changed))
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), before, after)
    assert max(jax.tree.leaves(difference)) > 1e-3


def test_reference_running_variance_is_unbiased():
    old = {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
    new = {"norm": {"mean": jnp.ones(1), "var": jnp.array([0.9 + 0.1 * 4.0])}}
    found = step.unbiased_variance(old, new, count=5)
    np.testing.assert_allclose(found["norm"]["var"], 0.9 + 0.1 * 4.0 * 5 / 4, rtol=1e-6)
    np.testing.assert_allclose(found["norm"]["mean"], 1.0)


def test_a_learned_lambda_falls_by_about_one_learning_rate_a_step():
    config = TrainConfig(
        detector="lap", fidelity="reference", lambda_mode="learnable", lambda_value=0.1, **SMALL
    )
    state = step.init_state(config, 12, 8)
    train_step = jax.jit(step.make_train_step(config))
    for _ in range(5):
        state, _ = train_step(state, _data(), VIDEOS_Bx2, PAIRS_B)
    np.testing.assert_allclose(state.params["ssls"]["lambda"], 0.1 - 5e-3, atol=5e-4)
