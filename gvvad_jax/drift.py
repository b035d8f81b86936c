"""Whether features leave the range that a detector knows: that of its training, or of its camera.

The detector's mean and deviation of each feature are compared with a video, or an hour of one. The
shift is the root mean square, over features, of how far the mean moved, in deviations. Single
snippets say nothing: an abnormal one is far from the mean, as it should be. docs/calibration.md
says how far other cameras lie, and how often normal footage of the same one is beyond the bound.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model

# Footage further away than this from training's is of another kind than the detector knows. A
# camera's normal footage varies less: an event that fills a short video moves it by up to 3.
BOUND, CAMERA_BOUND = 1.5, 3.0
# A live source is compared once so many seconds.
PERIOD = 3600.0
_MOST_NAMED = 3


class Meter:
    """Measures the shift of footage that arrives piece by piece, in constant memory.

    Args:
      model: the detector. It knows no range, and every shift is None, where its run didn't
        standardise features and it wasn't adapted to a camera.
    """

    def __init__(self, model: "Model"):
        self._known = model.seen or model.standard
        self.reset()

    def reset(self) -> None:
        """Forgets the footage so far."""
        self._rows, self._sum_D = 0, np.zeros(1)

    def add(self, visual_xD: np.ndarray) -> None:
        """Adds features of any number of snippets and crops, not standardised."""
        if self._known.mean_D is not None:
            rows_MxD = np.asarray(visual_xD, np.float64).reshape(-1, visual_xD.shape[-1])
            self._rows += len(rows_MxD)
            self._sum_D = self._sum_D + rows_MxD.sum(axis=0)

    def shift(self) -> float | None:
        """Returns the shift of the footage so far, in deviations; None without a known range."""
        if self._known.mean_D is None or self._known.std_D is None or not self._rows:
            return None
        shift_D = (self._sum_D / self._rows - self._known.mean_D) / self._known.std_D
        return float(np.sqrt(np.mean(np.square(shift_D))))


def shift(model: "Model", visual_xD: np.ndarray) -> float | None:
    """Returns the shift of a whole video; see Meter."""
    meter = Meter(model)
    meter.add(visual_xD)
    return meter.shift()


class Hours:
    """Measures the shift of each hour of a source that has no end.

    Args:
      model: the detector.

    Attributes:
      shifts: that of the last whole hour, by its name; empty before there is one.
    """

    def __init__(self, model: "Model"):
        self._model, self._meter, self._begin = model, Meter(model), 0.0
        self.shifts: dict[str, float | None] = {}

    def add(self, visual_xD: np.ndarray, seconds: float) -> str | None:
        """Adds features of a snippet that starts at so many seconds of the source.

        Returns:
          A line about the hour before, where that ends here and has left the known range.
        """
        said = None
        if seconds - self._begin >= PERIOD:
            name = f"the hour from {self._begin / 3600:.1f} h on"
            self.shifts = {name: self._meter.shift()}
            said = describe(self._model, self.shifts)
            self._meter.reset()
            self._begin = seconds
        self._meter.add(visual_xD)
        return said


def bound_of(model: "Model") -> float:
    """Returns the shift from which on footage leaves the range that a detector knows."""
    return BOUND if model.seen is None else CAMERA_BOUND


def beyond(model: "Model", shifts: Mapping[str, float | None]) -> dict[str, float]:
    """Returns the shifts beyond the bound, by the names of `describe`."""
    bound = bound_of(model)
    return {name: each for name, each in shifts.items() if each is not None and each > bound}


def describe(model: "Model", shifts: Mapping[str, float | None]) -> str | None:
    """Says in one line which videos, or hours, leave the known range; None where none does.

    Args:
      model: the detector.
      shifts: by the name of a video, or of an hour of a source.
    """
    far = beyond(model, shifts)
    if not far:
        return None
    named = sorted(far, key=lambda name: -far[name])[:_MOST_NAMED]
    more = f" and {len(far) - len(named)} more" if len(far) > len(named) else ""
    return (
        f"drift: the features of {', '.join(f'{name} ({far[name]:.1f})' for name in named)}{more} "
        f"lie more than {bound_of(model)} deviations from those that the detector knows, so scores "
        "and threshold may not hold; fit it to this camera with gvvad calibrate"
    )
