"""A plot of AUC against the number of real abnormal videos, from the table of a study."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from gvvad_jax.command import UserError
from tools.pages.rendering import points
from tools.studies import rows, statistics
from tools.studies.findings import detector_name

# Where the study's table is committed; an installed package has no docs.
TABLE = pathlib.Path(__file__).parents[2] / "docs" / "studies" / "helps_footage.csv"
_SHOWN = "docs/studies/helps_footage.csv"
# Width and height of the plot, and margins for its labels, in SVG units.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 640, 220, 52, 24, 30
# Arms stand beside each other by this much, so that their spreads don't cover each other.
_APART = 9.0


@dataclasses.dataclass(frozen=True)
class Point:
    """AUC of an arm at one number of real abnormal videos: over how many pairs of draw and seed."""

    abnormal: int
    mean: float
    sd: float
    runs: int


def read(
    detector: str, arms: Mapping[str, str], path: pathlib.Path = TABLE
) -> tuple[int, dict[str, list[Point]]]:
    """Reads what a study says of a detector.

    Args:
      detector: its name in the table.
      arms: by the arm's name on the page, its name in the table.
      path: the table.

    Returns:
      (number of real normal videos, points by the arm's name on the page). Of several numbers of
      normal videos it is the one with the most numbers of abnormal ones. Every arm's points are
      of the same runs: those that all arms have.

    Raises:
      UserError: there is no such table, or none of this detector and these arms.
    """
    if not path.exists():
        raise UserError(f"{_SHOWN} isn't here: it is a part of the repository, not of the package")
    values: dict[tuple[int, int], dict[str, dict[tuple[int, int], float]]] = {}
    for row in rows.read(path):
        cell, auc = row.cell, row.measures["auc"]
        if cell.detector == detector and cell.gap in ("", "1") and auc is not None:
            of_number = values.setdefault((cell.normal, cell.abnormal), {})
            of_number.setdefault(cell.arm, {})[cell.pair] = auc
    shared = {
        number: set.intersection(*(set(by_arm.get(arm, ())) for arm in arms.values()))
        for number, by_arm in values.items()
    }
    counts: dict[int, set[int]] = {}
    for (normal, abnormal), pairs in shared.items():
        if pairs:
            counts.setdefault(normal, set()).add(abnormal)
    if not counts:
        raise UserError(f"{_SHOWN} has no run of {detector_name(detector)} in these arms")
    normal = max(counts, key=lambda n: (len(counts[n]), n))
    return normal, {
        name: [
            Point(abnormal, *statistics.mean_sd(aucs), len(aucs))
            for abnormal in sorted(counts[normal])
            for aucs in [
                [values[normal, abnormal][arm][p] for p in sorted(shared[normal, abnormal])]
            ]
        ]
        for name, arm in arms.items()
    }


def plot(detector: str, arms: Mapping[str, str], path: pathlib.Path = TABLE) -> dict[str, Any]:
    """Values of the template: coordinates, or {"reason"} where there is nothing to draw."""
    try:
        normal, by_arm = read(detector, arms, path)
    except UserError as error:
        return {"reason": str(error)}
    every = [point for arm in by_arm.values() for point in arm]
    abnormal = sorted({point.abnormal for point in every})
    low = math.floor(min(p.mean - p.sd for p in every) * 20) / 20
    high = min(1.0, math.ceil(max(p.mean + p.sd for p in every) * 20) / 20)
    step = 0.05 if high - low <= 0.3 else 0.1

    def x(number: int, arm: int) -> float:
        place = abnormal.index(number) / max(1, len(abnormal) - 1)
        middle = _LEFT + 2 * _APART + place * (_WIDTH - _LEFT - _RIGHT - 2 * _APART)
        return middle + _APART * (arm - (len(by_arm) - 1) / 2)

    def y(auc: float) -> float:
        return 8 + (high - min(max(auc, low), high)) / max(high - low, 1e-9) * (_HEIGHT - 8)

    runs = sorted({point.runs for point in every})
    return {
        "reason": "",
        "source": _SHOWN,
        "normal": normal,
        "detector": detector_name(detector),
        "runs": f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}",
        "width": _WIDTH,
        "height": _HEIGHT + _BOTTOM,
        "floor": _HEIGHT,
        "left": _LEFT,
        "levels": [
            (f"{low + i * step:.2f}", f"{y(low + i * step):.1f}")
            for i in range(int((high - low) / step + 1e-9) + 1)
        ],
        "ticks": [(n, f"{x(n, 0) + _APART * (len(by_arm) - 1) / 2:.1f}") for n in abnormal],
        "lines": [
            {
                "points": points((x(p.abnormal, n), y(p.mean)) for p in arm),
                "spreads": [
                    [
                        f"{x(p.abnormal, n):.1f}",
                        *(f"{y(auc):.1f}" for auc in (p.mean + p.sd, p.mean - p.sd, p.mean)),
                    ]
                    for p in arm
                ],
            }
            for n, arm in enumerate(by_arm.values())
        ],
    }
