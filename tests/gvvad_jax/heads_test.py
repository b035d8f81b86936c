"""A detector's last layer: what it gets gives the scores, and another one gives others."""

import numpy as np
import pytest

from gvvad_jax import heads, scoring, step
from gvvad_jax.command import UserError
from gvvad_jax.config import DETECTORS, TrainConfig
from gvvad_jax.standardisation import Standardisation

DIM, TEXT_DIM = 12, 8


def _model(detector):
    # A width of 1 inside the body is not the last layer's.
    config = TrainConfig(detector=detector, store="s", workdir="w", head_widths=(6, 4),
                         mtn_channels=1, body_width=4, heads=2, memory_rows=4)  # fmt: skip
    state = step.init_state(config, DIM, TEXT_DIM)
    standard = Standardisation(np.full(DIM, 0.5, np.float32), np.full(DIM, 2.0, np.float32))
    return scoring.Model(
        config, None, standard, step.scoring_variables(state), step.make_score_step(config)
    )


def _sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(
    "detector",
    # The slow ones share the head of LAP.
    [pytest.param(d, marks=[pytest.mark.slow] * (d in ("rtfm", "tevad"))) for d in DETECTORS],
)
def test_the_last_layers_inputs_give_the_scores(detector):
    model, rng = _model(detector), np.random.default_rng(0)
    visual_TxNxD = rng.normal(size=(9, 2, DIM)).astype(np.float32)
    text_TxE = rng.normal(size=(9, TEXT_DIM)).astype(np.float32) if model.config.uses_text else None
    inputs_TxNxC = heads.inputs(model, visual_TxNxD, text_TxE)
    _, kernel_Cx1, bias_1 = heads.last_layer(model)
    expected_1xT = model.score_step(
        model.variables, model.standard.apply(visual_TxNxD).swapaxes(0, 1)[None],
        None if text_TxE is None else text_TxE[None], None,
    )  # fmt: skip
    scores_T = _sigmoid(inputs_TxNxC @ kernel_Cx1 + bias_1)[..., 0].mean(axis=1)
    np.testing.assert_allclose(scores_T, np.asarray(expected_1xT)[0], atol=1e-5)


def test_another_last_layer_gives_its_own_scores():
    model = _model("mil_rank")
    place, kernel_Cx1, bias_1 = heads.last_layer(model)
    assert (place, kernel_Cx1.shape, bias_1.shape) == (("fc3",), (32, 1), (1,))
    variables = heads.replaced(model, np.zeros((32, 1)), np.log([3.0]))
    features_1x1xTxD = np.ones((1, 1, 5, DIM), np.float32)
    scores_1xT = model.score_step(variables, features_1x1xTxD, None, None)
    np.testing.assert_allclose(scores_1xT, np.full((1, 5), 0.75), rtol=1e-6)
    # The detector itself stays as it was.
    np.testing.assert_array_equal(heads.last_layer(model)[1], kernel_Cx1)
    for kernel in (np.zeros((31, 1)), np.full((32, 1), np.nan)):
        with pytest.raises(UserError, match="kernel: expected a last layer of finite numbers"):
            heads.replaced(model, kernel, bias_1)
