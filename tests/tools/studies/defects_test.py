"""Planted defects: what they do to the frames."""

import numpy as np
import pytest

from tools.studies import defects


@pytest.mark.parametrize("kind", defects.DEFECTS)
def test_every_defect_is_a_pure_function_and_leaves_the_sound_video_alone(pair, kind):
    frames, other = pair
    before = frames.copy(), other.copy()
    for severity in defects.SEVERITIES:
        broken = defects.plant(kind, severity, frames, other, seed=5)
        assert broken.shape == frames.shape and broken.dtype == np.uint8
        assert (broken != frames).any()
    np.testing.assert_array_equal(defects.plant(kind, severity, frames, other, seed=5), broken)
    np.testing.assert_array_equal(before[0], frames)
    np.testing.assert_array_equal(before[1], other)


def test_shares_and_strengths_are_what_they_say(pair):
    frames, other = pair
    black = defects.plant("black", "plain", frames, other, 0)
    assert np.mean(black.max(axis=(1, 2, 3)) == 0) == pytest.approx(0.2, abs=0.02)
    frozen = defects.plant("frozen", "gross", frames, other, 0)
    still = (np.diff(frozen.astype(int), axis=0) == 0).all(axis=(1, 2, 3))
    assert still.mean() == pytest.approx(0.8, abs=0.03)
    held = defects.plant("stutter", "gross", frames, other, 0)
    np.testing.assert_array_equal(held[3], held[0])
    np.testing.assert_array_equal(held[8], frames[8])
    assert set(defects.HELD_OUT) < set(defects.DEFECTS)
    assert defects.HELD_OUT == ("stutter", "melt")
