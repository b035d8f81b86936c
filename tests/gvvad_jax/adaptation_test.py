"""Adaptations to a camera: written, applied to their run, refused for another or when damaged."""

import dataclasses
import json

import jax
import msgspec
import numpy as np
import pytest

from gvvad_jax import adaptation, events, scoring, streaming
from gvvad_jax.adaptation import Adaptation, Correction, Statistics
from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store
from tests.support.stores import DIM

THRESHOLD = events.Threshold(threshold=0.7, alarms_per_hour=6.0, asked=2.0, hours=0.5, videos=3,
                             reason="0.5 hours support 6")  # fmt: skip


@pytest.fixture(scope="module")
def model(trained):
    return scoring.load(trained("mil_rank")[0].workdir)


def _content(model, **changes):
    statistics = Statistics(mean=[0.25] * DIM, std=[2.0] * DIM)
    values = {
        "format_version": 1, "run": adaptation.fingerprint(model), "standardisation": statistics,
        "features": statistics, "threshold": THRESHOLD, "rates": [], "temperature": None,
        "temperature_reason": "why", "footage": {"videos": 3},
    }  # fmt: skip
    return Adaptation(**(values | changes))


def test_an_adaptation_is_applied_to_its_run_and_leaves_that_as_it_is(model, real_store, tmp_path):
    path = tmp_path / "camera.json"
    weights_D = np.linspace(-0.5, 0.5, DIM).astype(np.float32)
    adaptation.write(path, _content(model), Correction(weights_D, 0.25), {"better": True})
    adapted = adaptation.apply(model, path)
    assert adapted.calibration.threshold == THRESHOLD
    assert (adapted.config.alarms_per_hour, adapted.normal_videos) == (2.0, {})
    assert adapted.calibration.temperature_reason == "why"
    features = np.random.default_rng(0).normal(size=(6, 2, DIM)).astype(np.float32)
    rows_TxNxD = (features - 0.25) / 2
    scores_T = model.score({"a": rows_TxNxD})["a"].astype(np.float64)
    logits_T = np.log(scores_T / (1 - scores_T)) + rows_TxNxD.mean(axis=1) @ weights_D + 0.25
    adapted_T = adapted.score({"a": features})["a"]
    np.testing.assert_allclose(adapted_T, 1 / (1 + np.exp(-logits_T)), rtol=1e-4)
    # Snippets that arrive one by one are corrected, too.
    stream = streaming.ScoreStream(adapted, window=6)
    streamed = [stream.push(row_NxD) for row_NxD in features]
    assert streamed[-1] == pytest.approx(adapted_T[-1], rel=1e-4)
    assert model.standard.mean_D is None and model.calibration != adapted.calibration
    # What else is measured goes by it, too.
    measures = adapted.evaluate(Store(real_store))
    assert measures["threshold"]["threshold"] == 0.7
    assert adaptation.read(path).correction.feedback == {"better": True}


def test_a_run_is_known_by_weights_and_standardisation_alone(model):
    own = adaptation.fingerprint(model)
    assert own == adaptation.fingerprint(dataclasses.replace(model, calibration=None))
    variables = jax.tree.map(lambda leaf: leaf + 1e-3, model.variables)
    other = dataclasses.replace(model, variables=variables)
    standard = dataclasses.replace(model, standard=Statistics([0.0], [1.0]).standardisation())
    assert len({own, adaptation.fingerprint(other), adaptation.fingerprint(standard)}) == 3


def test_another_runs_adaptation_is_refused_in_one_line(model, tmp_path):
    path = tmp_path / "camera.json"
    adaptation.write(path, _content(model, run="0" * 64))
    with pytest.raises(UserError, match=r"camera\.json: expected an adaptation of this run") as e:
        adaptation.apply(model, path)
    assert "\n" not in str(e.value) and "(000000000000)" in str(e.value)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"format_version": 2}, "format_version"),
        ({"threshold": {"threshold": "0.7"}}, "threshold"),
        ({"more": 1}, "more"),
        ({"features": {"mean": [0.0], "std": [0.0]}}, "deviations above 0"),
        ({"features": {"mean": [0.0], "std": [1.0, 1.0]}}, "as many deviations"),
        ({"features": {"mean": [], "std": []}}, "as many deviations"),
        ({"standardisation": {"mean": [0.0], "std": [-1.0]}}, "standardisation: .*above 0"),
        ({"features": {"mean": [0.0] * 3, "std": [1.0] * 3}}, f"{DIM} features, found 3"),
        ({"correction": {"file": "../x.npz", "sha256": "0", "feedback": {}}}, "without a folder"),
        ({"correction": {"file": "x.npz", "sha256": "0", "feedback": {}}}, "x.npz: .* found none"),
    ],
)
def test_damaged_adaptations_are_refused_in_one_line(model, tmp_path, change, found):
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(msgspec.to_builtins(_content(model)) | change))
    with pytest.raises(UserError, match=found) as e:
        adaptation.apply(model, path)
    assert "\n" not in str(e.value) and str(tmp_path) in str(e.value)


def test_another_correction_is_refused(model, tmp_path):
    weights_D = np.zeros(DIM, np.float32)
    path = tmp_path / "a.json"
    for name, bias in (("a", 1.0), ("b", 2.0)):
        adaptation.write(tmp_path / f"{name}.json", _content(model), Correction(weights_D, bias))
    (tmp_path / "b.correction.npz").replace(tmp_path / "a.correction.npz")
    refusal = r"a\.correction\.npz: expected what .*a\.json learned from feedback, found another"
    with pytest.raises(UserError, match=refusal):
        adaptation.apply(model, path)
    for correction in (
        Correction(weights_D[1:], 1.0), Correction(weights_D * np.nan, 1.0),
        Correction(weights_D.astype(int), 1.0),
    ):  # fmt: skip
        adaptation.write(path, _content(model), correction)
        with pytest.raises(UserError, match=refusal):
            adaptation.apply(model, path)
