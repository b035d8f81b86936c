"""Adaptations to a camera: written, applied to their run, refused for another or when damaged."""

import dataclasses
import json

import msgspec
import numpy as np
import pytest

from gvvad_jax import adaptation, events, heads, scoring
from gvvad_jax.adaptation import Adaptation, Statistics
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
    _, kernel_Cx1, bias_1 = heads.last_layer(model)
    layer = (kernel_Cx1 * 2, bias_1 + 1)
    adaptation.write(path, _content(model), layer, {"better": True})
    adapted = adaptation.apply(model, path)
    assert adapted.calibration.threshold == THRESHOLD
    assert (adapted.config.alarms_per_hour, adapted.normal_videos) == (2.0, {})
    assert adapted.calibration.temperature_reason == "why"
    features = np.random.default_rng(0).normal(size=(6, 2, DIM)).astype(np.float32)
    expected = dataclasses.replace(model, variables=heads.replaced(model, *layer)).score(
        {"a": (features - 0.25) / 2}
    )
    np.testing.assert_allclose(adapted.score({"a": features})["a"], expected["a"], rtol=1e-5)
    assert model.standard.mean_D is None and model.calibration != adapted.calibration
    # What else is measured goes by it, too.
    measures = adapted.evaluate(Store(real_store))
    assert measures["threshold"]["threshold"] == 0.7
    assert adaptation.read(path).head.feedback == {"better": True}


def test_a_run_is_known_by_weights_and_standardisation_alone(model):
    own = adaptation.fingerprint(model)
    assert own == adaptation.fingerprint(dataclasses.replace(model, calibration=None))
    _, kernel_Cx1, bias_1 = heads.last_layer(model)
    other = dataclasses.replace(model, variables=heads.replaced(model, kernel_Cx1, bias_1 + 1e-3))
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
        ({"head": {"file": "../x.npz", "sha256": "0", "feedback": {}}}, "without a folder"),
        ({"head": {"file": "x.npz", "sha256": "0", "feedback": {}}}, "x.npz: .* found none"),
    ],
)
def test_damaged_adaptations_are_refused_in_one_line(model, tmp_path, change, found):
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(msgspec.to_builtins(_content(model)) | change))
    with pytest.raises(UserError, match=found) as e:
        adaptation.apply(model, path)
    assert "\n" not in str(e.value) and str(tmp_path) in str(e.value)


def test_a_layer_of_another_adaptation_is_refused(model, tmp_path):
    _, kernel_Cx1, bias_1 = heads.last_layer(model)
    for name, scale in (("a", 2), ("b", 3)):
        adaptation.write(tmp_path / f"{name}.json", _content(model), (kernel_Cx1 * scale, bias_1))
    (tmp_path / "b.head.npz").replace(tmp_path / "a.head.npz")
    with pytest.raises(
        UserError, match=r"a\.head\.npz: expected the tuned last layer of .* another"
    ):
        adaptation.apply(model, tmp_path / "a.json")
