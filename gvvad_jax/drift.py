"""Whether features leave the range that a detector knows: those of its training, or of its camera.

The detector's mean and deviation of each feature are compared with footage of a minute or more. The
drift is the root mean square, over features, of the mean's shift in deviations. Single snippets say
nothing: an abnormal one is far from the mean, as it should be. docs/calibration.md says how often
it is wrong.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model


def shift(model: "Model", visual_TxNxD: np.ndarray) -> float | None:
    """Returns how far the mean of footage's features lies from those that a detector knows.

    Args:
      model: the detector.
      visual_TxNxD: visual features of the footage, not standardised.

    Returns:
      The root mean square over features, in standard deviations; None where the run has no
      statistics of its features.
    """
    known = model.seen or model.standard
    if known.mean_D is None or known.std_D is None:
        return None
    rows_MxD = np.asarray(visual_TxNxD, np.float64).reshape(-1, visual_TxNxD.shape[-1])
    shift_D = (rows_MxD.mean(axis=0) - known.mean_D) / known.std_D
    return float(np.sqrt(np.mean(np.square(shift_D))))
