"""Norms of features, and whether the detectors' losses suit them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tools.importing.checks import Content

# The norm of the I3D features that the published margin suits.
_MARGIN, _SUITED = 100.0, 22.0
# How far from it a norm may be.
_FACTOR = 2.0


class Norms(NamedTuple):
    """Norms of a set's rows [D], one for each snippet and crop.

    Attributes:
      mean: their mean.
      low, high: the 5th and the 95th percentile of the videos' means.
      normalised: whether each norm is 1.
      zeros: videos whose rows are all zero.
    """

    mean: float
    low: float
    high: float
    normalised: bool
    zeros: int


def norms_of(contents: Iterable[Content]) -> Norms:
    """Summarises the contents of at least one array."""
    each = [content for content in contents if content.rows]
    rows = np.array([content.rows for content in each], float)
    means = np.array([content.norm for content in each])
    low, high = np.percentile(means, [5, 95])
    # A thousandth is float16's rounding.
    normalised = all(content.low > 0.998 and content.high < 1.002 for content in each)
    zeros = sum(content.high == 0.0 for content in each)
    return Norms(float(means @ rows / rows.sum()), float(low), float(high), normalised, zeros)


def describe(norms: Norms) -> str:
    """Returns the norms as a line."""
    spread = f"{norms.low:.3g} to {norms.high:.3g} in 90 % of videos"
    return f"norm of a feature: {norms.mean:.3g} ({spread})"


def advice(norms: Norms, dim: int) -> list[str]:
    """Returns warnings where the losses don't suit the norms, each with the flag that helps."""
    lines = []
    if norms.zeros:
        lines.append(f"{norms.zeros:,} arrays hold zeros only: their extraction may have failed")
    standardised = f"--standardise=yes (which makes the norm about {math.sqrt(dim):.0f})"
    if norms.normalised:
        lines.append(
            "features are L2-normalised: all norms are 1, and the magnitudes by which rtfm, tevad "
            f"and lap choose snippets say nothing; train with {standardised}"
        )
    elif norms.mean and not 1 / _FACTOR < norms.mean / _SUITED < _FACTOR:
        margin = float(f"{_MARGIN / _SUITED * norms.mean:.2g}")
        lines.append(
            f"norm {norms.mean:.3g}: the published margin of {_MARGIN:g} suits features of norm "
            f"{_SUITED:g} (I3D); train with {standardised}, or with --margin={margin:g}"
        )
    return lines


def duplicates(contents: Sequence[tuple[str, Content]]) -> list[tuple[str, str]]:
    """Lists pairs of names whose arrays have the same content."""
    first: dict[str, str] = {}
    pairs = []
    for name, content in contents:
        other = first.setdefault(content.digest, name)
        if other != name and content.high > 0.0:
            pairs.append((other, name))
    return pairs
