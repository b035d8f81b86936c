"""Plots of lines in SVG: axes, ticks and coordinates, for templates/plots.html."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from tools.pages.rendering import points

# Width and height of a plot with its margins, in SVG units; two stand side by side on a wide
# screen, and labels are larger on a narrow one.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 250, 54, 22, 10, 40
# A quantity above 0 that spreads over more than this factor is drawn by its logarithm.
_SPREAD = 50.0
# Values nearer to 0 than this are drawn at it on a logarithmic axis.
_LEAST = 1e-8


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
      run: number of the run, which gives its colour.
      places: (x, y) from left to right.
      marks: whether to draw its points as dots, too.
    """

    run: int
    places: Sequence[tuple[float, float]]
    marks: bool = False


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale from values to SVG units.

    Attributes:
      low, high: the values at its ends.
      start, end: where they lie.
      logarithmic: whether equal factors are equal lengths.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> list[tuple[str, str]]:
        """(label, place) of at most so many round values within the axis, two at least."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, -(-(last - first + 1) // most))
            values = [10.0**power for power in range(first, last + 1, every)]
        else:
            step = round_step(self.high - self.low, most)
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            values = [n * step for n in range(first, last + 1)]
        return [(_label(value), f"{self(value):.1f}") for value in values]


def _label(value: float) -> str:
    """A value as short as can be: 20000 is 20k, 0.30000000000000004 is 0.3."""
    if abs(value) >= 10000 and value % 1000 == 0:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def round_step(length: float, most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten of which at most so many fit into a length."""
    power = 10.0 ** math.floor(math.log10(length / most))
    return next(n * power for n in (1, 2, 5, 10) if length / (n * power) <= most)


def axis_of(
    values: Iterable[float],
    start: float,
    end: float,
    low: float | None = None,
    high: float | None = None,
) -> Axis:
    """An axis that holds some values.

    Args:
      values: finite values; at least one unless both ends are given.
      start, end: where the ends lie.
      low, high: ends of the axis instead of the lowest and the highest value; the axis is then
        linear.
    """
    values = list(values)
    least, most = min(values, default=0.0), max(values, default=1.0)
    positive = [value for value in values if value > 0]
    fixed = low is not None or high is not None
    if not fixed and least >= 0 and positive and most > _SPREAD * max(_median(values), _LEAST):
        return _logarithmic(positive, start, end)
    if not fixed and least > 0 and most > _SPREAD * least:
        return _logarithmic(positive, start, end)
    low, high = least if low is None else low, most if high is None else high
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        # One value: a hundredth around it, or 1 around 0.
        room = abs(low) / 100 or 1.0
        return Axis(low - room, high + room, start, end)
    if not fixed:
        room = 0.04 * (high - low)
        # An axis whose values aren't negative doesn't go below 0.
        low, high = max(low - room, 0.0) if low >= 0 else low - room, high + room
    return Axis(low, high, start, end)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _logarithmic(positive: Sequence[float], start: float, end: float) -> Axis:
    # Whole powers of ten, two at least, so that there are two ticks.
    first = math.floor(math.log10(max(min(positive), _LEAST)))
    last = max(math.ceil(math.log10(max(positive))), first + 1)
    return Axis(10.0**first, 10.0**last, start, end, True)


def plot(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    spans: Sequence[tuple[float, float]] = (),
    diagonal: bool = False,
) -> dict[str, Any]:
    """Coordinates of a plot, for the macro `plot` of templates/plots.html.

    Args:
      title: what is drawn.
      lines: the lines; values that aren't finite are left out.
      x_label: what lies along the x axis, with its unit.
      x_range, y_range: ends of the axes; by default those of the values, on a logarithmic axis
        where they spread far.
      spans: parts of the x axis to shade.
      diagonal: whether to draw the line from one corner to the other.
    """
    lines = [
        Line(e.run, [p for p in e.places if all(map(math.isfinite, p))], e.marks) for e in lines
    ]
    every = [place for line in lines for place in line.places]
    x_low, x_high = x_range or (None, None)
    y_low, y_high = y_range or (None, None)
    if x_range is None:
        x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    x = axis_of([x for x, _ in every], LEFT, WIDTH - RIGHT, x_low, x_high)
    y = axis_of([y for _, y in every], HEIGHT - BOTTOM, TOP, y_low, y_high)
    return {
        "title": title,
        "note": _note(y, [value for _, value in every]),
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "floor": HEIGHT - BOTTOM,
        "top": TOP,
        "x_label": x_label,
        "x_ticks": x.ticks(6),
        "y_ticks": y.ticks(5),
        "spans": [(f"{x(a):.1f}", f"{max(x(b) - x(a), 1.0):.1f}") for a, b in spans],
        "diagonal": diagonal,
        "lines": [
            {
                "run": line.run,
                "points": points(thin([(x(a), y(b)) for a, b in line.places])),
                "dots": [(f"{x(a):.1f}", f"{y(b):.1f}") for a, b in line.places]
                if line.marks or len(line.places) == 1
                else [],
            }
            for line in lines
            if line.places
        ],
    }


def _note(y: Axis, values: Sequence[float]) -> str:
    if not y.logarithmic:
        return ""
    below = "; what lies below is drawn at the bottom" if min(values) < y.low else ""
    return f"logarithmic{below}"


def thin(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leaves out points that a picture doesn't show.

    Of neighbouring points in the same unit of x the first, lowest, highest and last stay, so that
    no peak is lost.
    """
    kept: list[tuple[float, float]] = []
    start = 0
    for n in range(1, len(places) + 1):
        if n < len(places) and math.floor(places[n][0]) == math.floor(places[start][0]):
            continue
        part = range(start, n)
        lowest, highest = (f(part, key=lambda k: places[k][1]) for f in (min, max))
        kept += [places[k] for k in sorted({start, lowest, highest, n - 1})]
        start = n
    return kept
