"""A camera's statistics, their blend with training's, and scores by those of other parts."""

import dataclasses

import numpy as np
import pytest

from gvvad_jax import adaptation, events, scoring
from gvvad_jax.command import UserError
from gvvad_jax.standardisation import Standardisation
from tests.support.stores import CROPS, DIM
from tools.adapting import camera
from tools.adapting.camera import Footage


def _times(count, seconds=1.0):
    return np.stack([np.arange(count), np.arange(count) + 1.0], axis=1) * seconds


def _footage(lengths, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    features = {f"v{i}": rng.normal(loc=shift, size=(length, CROPS, DIM)).astype(np.float32)
                for i, length in enumerate(lengths)}  # fmt: skip
    return Footage(features, {i: _times(len(rows)) for i, rows in features.items()})


@pytest.fixture(scope="module")
def model(trained):
    loaded = scoring.load(trained("mil_rank")[0].workdir)
    standard = Standardisation(np.zeros(DIM, np.float32), np.ones(DIM, np.float32))
    return dataclasses.replace(loaded, standard=standard)


def test_statistics_are_those_of_all_rows_that_count():
    footage = _footage([4, 6])
    rows_MxD = np.concatenate([footage.visual(i) for i in ("v0", "v1")]).reshape(-1, DIM)
    own = camera.statistics(footage)
    np.testing.assert_allclose(own.mean_D, rows_MxD.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(own.std_D, rows_MxD.std(axis=0), rtol=1e-5)
    left_out = {"v0": np.ones(4, bool), "v1": np.arange(6) < 2}
    rest = camera.statistics(footage, left_out)
    np.testing.assert_allclose(rest.mean_D, footage.visual("v1")[2:].mean(axis=(0, 1)), atol=1e-6)
    assert (footage.seconds, footage.snippets) == (10.0, 10)


def test_statistics_are_blended_by_hand():
    own = Standardisation(np.float32([4.0]), np.float32([9.0]))
    training = Standardisation(np.float32([0.0]), np.float32([1.0]))
    half = camera.blended(own, training, 0.5)
    assert (half.mean_D[0], half.std_D[0]) == (2.0, 3.0)
    assert camera.blended(own, training, 0.0).std_D[0] == 1.0
    assert camera.blended(own, Standardisation(), 0.5).mean_D is None


def test_videos_are_whole_in_a_part_and_few_ones_are_cut():
    whole = camera.parts(_footage([3] * 6))
    assert [set(part_T.tolist()) for part_T in whole.values()] == [{0}, {1}, {2}, {3}, {4}, {0}]
    assert camera.parts(_footage([10, 5]))["v0"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_each_part_is_scored_by_the_statistics_of_the_others(model):
    footage = _footage([3] * 5, shift=2.0)
    scores = camera.cross_scores(model, footage, 1.0)
    others = Footage({i: footage.features[i] for i in ("v1", "v2", "v3", "v4")},
                     {i: footage.times[i] for i in ("v1", "v2", "v3", "v4")})  # fmt: skip
    by_others = dataclasses.replace(model, standard=camera.statistics(others))
    np.testing.assert_allclose(
        scores["v0"], by_others.score({"v0": footage.features["v0"]})["v0"], rtol=1e-4
    )
    # Without a share of its own, the run's statistics score.
    unchanged = camera.cross_scores(model, footage, 0.0)
    np.testing.assert_array_equal(unchanged["v0"], model.score(footage.features)["v0"])


def test_a_camera_is_fitted_with_the_rate_that_its_footage_supports(model):
    footage = _footage([30] * 6, shift=1.0)
    found = camera.fit(model, footage, 0.08)
    assert found.run == adaptation.fingerprint(model)
    threshold = found.threshold
    # Three minutes without an alarm support 60 alarms an hour.
    assert (threshold.alarms_per_hour, threshold.asked, threshold.alarms) == (60.0, 0.08, 0)
    assert "0.05 hours of normal footage support 60 alarms an hour" in threshold.reason
    scores = camera.cross_scores(model, footage, 1.0)
    assert found.standardisation == found.features and found.temperature is None
    assert threshold.threshold == max(float(each.max()) for each in scores.values())
    np.testing.assert_allclose(found.features.mean, camera.statistics(footage).mean_D)


def test_other_rates_have_lower_thresholds():
    rng = np.random.default_rng(0)
    scores, times = {"a": rng.uniform(size=7200)}, {"a": _times(7200)}
    threshold = events.threshold_for(4.0, scores, times)
    found = camera.rates(threshold, scores, times)
    assert [rate.alarms_per_hour for rate in found] == [4.0, 12.0, 30.0]
    assert found[0].threshold == threshold.threshold
    assert found[0].threshold > found[1].threshold > found[2].threshold
    for rate in found:
        rule = events.Rule(threshold=rate.threshold)
        alarms, hours = events.count_alarms(scores, times, rule)
        assert alarms / hours <= rate.alarms_per_hour


def test_too_little_footage_is_refused(model):
    for lengths in ([9], [4, 5]):
        with pytest.raises(UserError, match=r"at least 10 seconds and 10 snippets, found 9\.0"):
            camera.fit(model, _footage(lengths), 1.0)
    found = camera.fit(model, _footage([10]), 1.0)
    assert found.threshold.threshold > 0
    # Ten seconds say nothing about the camera's features.
    assert found.standardisation is None
    assert found.footage["standardised_by"] == "the run's statistics"
