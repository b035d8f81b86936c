"""Training on real normal videos and generated abnormal ones, with no real anomaly at all."""

import dataclasses
import pathlib

from gvvad_jax import training
from tests.support.stores import write_store

RECIPE = pathlib.Path(__file__).parents[2] / "configs" / "no_real_anomalies.flags"


def test_training_works_without_a_real_anomaly(settings, tmp_path, synthetic_store):
    real = write_store(tmp_path / "real", {"train": (8, 0), "test": (3, 3)})
    lines = RECIPE.read_text().splitlines()
    assert "--lambda_mode=fixed" in lines and "--flagfile=gvvad.flags" in lines
    config = dataclasses.replace(
        settings,
        store=str(real),
        synthetic_store=str(synthetic_store),
        synthetic_keep="",
        detector="mil_rank",  # The quickest to compile.
        batch_norm="per_domain",
        standardise_by="domain",
        synthetic_share="auto",
        lambda_mode="fixed",
        lambda_value=1.0,
        steps=2,
        log_every=1,
        validate_every=2,
        checkpoint_every=2,
        workdir=str(tmp_path / "run"),
    )
    result = training.fit(config)
    assert result.steps == 2 and 0 <= result.last["auc"] <= 1
