"""Counted operations, against those that XLA counts and by hand."""

import jax
import jax.numpy as jnp
import pytest

from gvvad_jax import detectors, step
from gvvad_jax.config import DETECTORS, TrainConfig
from tools.bench.operations import count_step


@pytest.mark.parametrize("detector", DETECTORS)
def test_operations_are_those_that_xla_counts(detector):
    videos, crops, length, dim, text_dim = 2, 3, 16, 512, 256
    config = TrainConfig(detector=detector)
    model = detectors.by_name(detector).Detector(config)
    visual = jnp.zeros((videos, crops, length, dim))
    text = jnp.zeros((videos, length, text_dim)) if config.uses_text else None
    state = jax.eval_shape(lambda: step.init_state(config, dim, text_dim))
    score = jax.jit(lambda variables: model.apply(variables, visual, text).scores_VxT)
    flops = score.lower(step.scoring_variables(state)).cost_analysis()["flops"]
    counted = count_step(detector, videos, crops, length, dim, text_dim)["score"]
    if detector == "ur_dmu":  # Scoring asks for no variance.
        counted -= 2.0 * videos * crops * length // 2 * 512 * 512
    # What isn't a product (norms, activations) is a few percent more.
    assert 0.95 * flops < counted <= flops


def test_training_takes_two_or_three_times_the_products_of_scoring():
    for detector in DETECTORS:
        counted = count_step(detector, 64, 10, 32, 768, 768)
        assert 2 < counted["train"] / counted["score"] < 3
    # By hand, LAP at 32 segments: see docs/performance.md.
    assert count_step("lap", 64, 10, 32, 768, 768)["train"] == pytest.approx(445.1e9, rel=1e-3)
