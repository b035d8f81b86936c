"""Finished runs, and the flags of studies."""

import pytest

from gvvad_jax import config, training
from gvvad_jax.command import UserError
from tools.studies import runs


def test_a_measure_that_test_videos_do_not_allow_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_inputs_digest", lambda config: "")
    result = training.Result(
        last={"auc": 0.5, "auc_abnormal": None},
        best_on_validation=None,
        best_on_test=None,
        steps=1,
        workdir=tmp_path,
        provenance={},
    )
    monkeypatch.setattr(training, "fit", lambda config: result)
    with pytest.raises(UserError, match="don't allow auc_abnormal; .* not abnormal throughout"):
        runs.finished_run(config.TrainConfig(store="S", workdir=str(tmp_path / "w")))


def test_a_study_needs_a_folder_and_a_run():
    with pytest.raises(UserError, match="--out: expected a folder"):
        runs.Study()
    with pytest.raises(UserError, match="--seeds: expected at least 1"):
        runs.Study(out="out", seeds=0)
