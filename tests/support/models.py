"""Small detectors with random weights that nobody trained: all that scoring needs, at no cost."""

import jax
import numpy as np

from gvvad_jax import scoring, step
from gvvad_jax.calibration import Calibration
from gvvad_jax.config import TrainConfig
from gvvad_jax.events import Threshold
from gvvad_jax.standardisation import Standardisation
from tests.support.stores import CROPS, DIM, TEXT_DIM, make_manifest

SMALL = {"mtn_channels": 6, "head_widths": (8, 4), "body_width": 8, "memory_rows": 20}


def make_model(detector, *, standardised=True, calibrated=True, seed=0, **settings):
    """A model of a detector. Every branch counts: no scale is 0, as those of training begin."""
    config = TrainConfig(detector=detector, **(SMALL | settings))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape, scale=0.3).astype(np.float32)
        return np.abs(values) + 0.5 if path[-1].key == "var" else values

    state = jax.eval_shape(lambda: step.init_state(config, DIM, TEXT_DIM))
    standard = Standardisation()
    if standardised:
        mean_D, std_D = rng.normal(size=(2, DIM)).astype(np.float32)
        standard = Standardisation(mean_D, np.abs(std_D) + 0.1)
    return scoring.Model(
        config=config,
        manifest=make_manifest(),
        standard=standard,
        variables=jax.tree_util.tree_map_with_path(draw, step.scoring_variables(state)),
        score_step=step.make_score_step(config),
        calibration=_calibration() if calibrated else None,
    )


def _calibration():
    threshold = Threshold(threshold=0.625, alarms_per_hour=2.0, asked=1.0, hours=1.5, videos=3)
    return Calibration(step=7, temperature=1.75, temperature_reason=None, threshold=threshold)


def random_features(model, lengths, seed=0):
    """Raw features of a video of each length, by id, as Model.score takes them."""
    rng = np.random.default_rng(seed)
    mean, std = model.standard.mean_D, model.standard.std_D
    features = {}
    for length in lengths:
        visual = rng.normal(size=(length, CROPS, DIM)).astype(np.float32)
        visual = visual if mean is None else visual * std + mean
        text = rng.normal(size=(length, TEXT_DIM)).astype(np.float32)
        features[str(length)] = (visual, text) if model.config.uses_text else visual
    return features
