"""Drift: the shift by hand, in pieces as in the whole, and when it is said."""

import types

import numpy as np
import pytest

from gvvad_jax import drift
from gvvad_jax.standardisation import Standardisation

KNOWN = Standardisation(np.array([1.0, 0.0], np.float32), np.array([2.0, 0.5], np.float32))


def _model(standard=KNOWN, seen=None):
    return types.SimpleNamespace(standard=standard, seen=seen)


def test_the_shift_by_hand():
    # Means 5 and 1.5: two and three deviations away.
    rows_TxNxD = np.array([[[4.0, 1.0], [6.0, 1.0]], [[5.0, 2.0], [5.0, 2.0]]])
    expected = np.sqrt((2**2 + 3**2) / 2)
    assert drift.shift(_model(), rows_TxNxD) == pytest.approx(expected)
    meter = drift.Meter(_model())
    for rows_NxD in rows_TxNxD:
        meter.add(rows_NxD)
    assert meter.shift() == pytest.approx(expected)
    meter.reset()
    assert meter.shift() is None
    # A camera's own range counts instead of training's; without either nothing is known.
    camera = Standardisation(np.array([5.0, 1.5], np.float32), KNOWN.std_D)
    assert drift.shift(_model(seen=camera), rows_TxNxD) == 0.0
    assert drift.shift(_model(Standardisation()), rows_TxNxD) is None


def test_drift_is_said_in_one_line_with_the_farthest_first():
    shifts = {"a": 1.5, "b": None, "c": 1.6, "d": 3.0, "e": 2.0, "f": 1.7}
    assert drift.describe(_model(), {"a": 1.5, "b": None}) is None
    said = drift.describe(_model(), shifts)
    assert said.startswith("drift: the features of d (3.0), e (2.0), f (1.7) and 1 more lie more")
    assert "gvvad calibrate" in said and "\n" not in said
    # A camera's own range is narrower, so that the bound is higher.
    adapted = _model(seen=KNOWN)
    assert drift.beyond(adapted, shifts | {"g": 3.5}) == {"g": 3.5}
    assert "more than 3.0 deviations" in drift.describe(adapted, {"g": 3.5})
    assert drift.beyond(_model(), shifts) == {"c": 1.6, "d": 3.0, "e": 2.0, "f": 1.7}


def test_a_source_without_end_is_measured_by_the_hour():
    hours, said = drift.Hours(_model()), {}
    near, far = np.array([1.0, 0.0]), np.array([5.0, 1.5])
    for second in range(0, 3 * 3600, 60):
        line = hours.add(far if second >= 3600 else near, second)
        if line:
            said[second] = line
        if second < 3600:
            assert hours.shifts == {}
    # The first hour is as expected, the second isn't, and the third isn't over.
    assert list(said) == [7200]
    assert "the hour from 1.0 h on (2.5)" in said[7200]
    assert hours.shifts == {"the hour from 1.0 h on": pytest.approx(np.sqrt(6.5))}
