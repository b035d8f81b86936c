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
    assert drift.describe({"a": 1.5, "b": None}) is None
    said = drift.describe(shifts)
    assert said.startswith("drift: the features of d (3.0), e (2.0), f (1.7) and 1 more lie more")
    assert "tools.calibrate" in said and "\n" not in said
    assert drift.beyond(shifts) == {"c": 1.6, "d": 3.0, "e": 2.0, "f": 1.7}
