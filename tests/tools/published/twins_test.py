"""The PyTorch twins, against each other and against our detectors."""

import pathlib

import chex
import jax
import numpy as np
import pytest
import torch

from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors import mil_rank
from tools.published import goldens, twins
from tools.published.twin_losses import losses

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = pathlib.Path(__file__).parents[2] / "golden"


def test_the_twin_with_text_once_gives_what_the_published_gives():
    golden = np.load(GOLDEN / "lap_concat_fixed_t64.npz")
    models = [goldens.from_golden(dict(golden)) for _ in range(2)]
    models[1].text_once = True
    batch = goldens.inputs(dict(golden))
    terms = [losses(model, model(batch), batch) for model in models]
    for name, value in terms[0].items():
        torch.testing.assert_close(terms[1][name], value, rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training_alone():
    model = twins.MultipleInstance(16, 16)
    visual, text = torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    assert not torch.equal(model.score(visual, text), model.score(visual, text))
    model.eval()
    assert torch.equal(model.score(visual, text), model.score(visual, text))


def test_mil_ranks_losses_and_gradients_are_those_of_our_detector():
    """MIL-Rank has no golden: compares the twin and our detector at the same parameters."""
    torch.manual_seed(0)
    twin = twins.Ranking(10, dropout=0.0)
    batch = {f"visual_{half}": torch.randn(3, 2, 7, 10) for half in twins.HALVES}
    terms = losses(twin, twin(batch), batch)
    terms["cost"].backward()
    config = TrainConfig(detector="mil_rank", dropout=0.0)
    visual = np.stack([batch[f"visual_{half}"].numpy() for half in twins.HALVES], axis=1)

    def kernels(value_of):
        return {
            name: {"kernel": value_of(layer.weight).numpy().T, "bias": value_of(layer.bias).numpy()}
            for name, layer in twin.named_children()
            if name != "dropout"
        }

    def loss(params):
        outputs = mil_rank.Detector(config).apply({"params": params}, visual.reshape(6, 2, 7, 10))
        parts = mil_rank.loss_terms(outputs, None, None, config)
        return sum(term.weight * term.values_M.mean() for term in parts.values())

    params, expected = kernels(lambda x: x.detach()), kernels(lambda x: x.grad)
    value, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(value, terms["cost"].item(), rtol=1e-5)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-7)
