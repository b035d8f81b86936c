"""A store in lower precision, and the comparison seed by seed."""

import numpy as np
import pytest

from gvvad_jax.store.reader import Store
from tools.bench import accuracy


def test_a_store_as_float16_is_the_same_store(real_store, tmp_path):
    halved = Store(accuracy.as_float16(str(real_store), tmp_path / "float16"))
    original = Store(real_store)
    assert halved.manifest.dtype == "float16" and halved.rows.keys() == original.rows.keys()
    assert (tmp_path / "float16" / "bank.npy").exists()
    for video_id in halved.rows:
        for rows in ("visual", "text"):
            expected = getattr(original, rows)(video_id).astype(np.float16)
            np.testing.assert_array_equal(getattr(halved, rows)(video_id), expected)


def test_precisions_are_compared_seed_by_seed():
    summary = accuracy._summary([0.5, 0.7], baseline=[0.4, 0.8])
    assert summary["auc"] == pytest.approx(0.6) and summary["difference"] == pytest.approx(0)
    assert summary["difference_deviation"] == pytest.approx(0.02**0.5)
    assert summary["deviation"] == pytest.approx(summary["difference_deviation"])


def test_crops_are_compared_on_the_same_runs(tmp_path, monkeypatch):
    runs = {}

    class Model:
        def __init__(self, config):
            self.config = config

        def evaluate(self, path):
            # One crop a step costs 0.1, scoring by the mean 0.02.
            cost = 0.1 * self.config.train_crops + 0.02 * (self.config.score_crops == "mean")
            return {"auc": 0.9 - cost + 0.01 * self.config.seed}

    monkeypatch.setattr(
        "gvvad_jax.training.fit", lambda config: runs.update({config.workdir: config})
    )
    monkeypatch.setattr("gvvad_jax.scoring.load", lambda workdir: Model(runs[workdir]))
    monkeypatch.setattr("tools.bench.evaluation.with_config", lambda _, config: Model(config))
    measured = accuracy.crops("store", tmp_path, 3, {"detector": "rtfm", "steps": 5})
    assert len(runs) == 6 and {config.steps for config in runs.values()} == {5}
    differences = {name: row["difference"] for name, row in measured.items()}
    assert differences["all crops a step, scored by all"] == 0
    assert differences["all crops a step, scored by mean"] == pytest.approx(-0.02)
    assert differences["one crop a step, scored by mean"] == pytest.approx(-0.12)
    assert measured["one crop a step, scored by all"]["auc"] == pytest.approx(0.81)
