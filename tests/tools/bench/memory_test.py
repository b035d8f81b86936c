"""The memory of detectors: figures for each detector and length; never their size."""

import pytest

from tools.bench import memory


@pytest.mark.slow
def test_figures_by_detector_and_length():
    figures = memory.detectors(["mil_rank"], [1000])
    assert figures.keys() == {"mil_rank"} and figures["mil_rank"].keys() == {"1000"}
    # The features alone are 3 MB.
    assert 3 < figures["mil_rank"]["1000"] < 1000
