"""Tables of studies as text: mean +- standard deviation over runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from tools.studies import statistics
from tools.studies.rows import Row
from tools.studies.runs import MEASURES


def spread_text(entry: Mapping[str, float], sign: str = "", between: str = "+-") -> str:
    """{"mean", "sd"} as "0.912 +- 0.013"; sign "+" shows the sign of the mean always."""
    return f"{entry['mean']:{sign}.3f} {between} {entry['sd']:.3f}"


def difference_text(entry: Mapping[str, float], between: str = "+-") -> str:
    """A paired difference as "+0.012 +- 0.010 (3)", with the number of pairs won."""
    return f"{spread_text(entry, '+', between)} ({entry['wins']})"


def _both(entry: Mapping[str, Mapping[str, float]], sign: str = "") -> str:
    """AUC / abnormal-only AUC."""
    return " / ".join(spread_text(entry[m], sign) for m in MEASURES)


def ped2_table(result: Mapping[str, Any]) -> str:
    """The ped2 study: the detector, the baselines and the differences, a column each group."""
    groups = [group for group in ("split", "random_splits") if group in result]

    def row(name: str, cells: Sequence[str]) -> str:
        return f"{name:30s}" + "  ".join(f"{cell:>33s}" for cell in cells)

    def entry_row(name: str, entry: Mapping[str, Any]) -> str:
        return row(name, [_both(entry[group]) for group in groups])

    lines = [row("AUC / abnormal-only", groups), entry_row("detector", result)]
    lines += [entry_row(rule, entry) for rule, entry in result["baselines"].items()]
    lines += [
        entry_row(f"detector - {rule}", entry) for rule, entry in result["difference"].items()
    ]
    return "\n".join(lines)


def study_table(
    rows: Sequence[Row],
    *,
    measure: str = "auc",
    bases: Mapping[str, str] | None = None,
    alternative: str = "two-sided",
) -> str:
    """A grid's rows as Markdown tables: one for each number of real videos, or one for each of its
    detectors where there are several gaps, which are then its columns.

    A cell holds mean and standard deviation of an arm, then the mean of its paired differences to
    the arm that it is compared with, and their p-value, corrected over the detectors by Holm; and
    how many pairs, where it has fewer than other cells.

    Args:
      rows: rows in the order of their table; arms and detectors are shown in this order.
      measure: column of the measure.
      bases: by arm, which arm it is compared with (default: the first one).
      alternative: see statistics.p_value.
    """
    rows = [row for row in rows if row.measures[measure] is not None]
    numbers = dict.fromkeys((row.cell.normal, row.cell.abnormal) for row in rows)
    gaps = list(dict.fromkeys(row.cell.gap for row in rows if row.cell.gap)) or [""]
    tables = []
    for normal, abnormal in numbers:
        title = f"{normal} normal + {abnormal} abnormal real videos"
        of_number = [r for r in rows if (r.cell.normal, r.cell.abnormal) == (normal, abnormal)]
        columns = [
            _columns([r for r in of_number if r.cell.gap in ("", gap)], measure, bases, alternative)
            for gap in gaps
        ]
        if len(gaps) == 1:
            tables.append(_grid_table(title, columns[0]))
            continue
        for detector in dict.fromkeys(d for column in columns for d in column):
            of_detector = {
                f"gap {gap}": column[detector]
                for gap, column in zip(gaps, columns, strict=True)
                if detector in column
            }
            tables.append(_grid_table(f"{detector}, {title}", of_detector))
    return "\n\n".join(tables)


# The cells of one detector by arm, as text, and the number of their values.
Column = Mapping[str, tuple[str, int]]


def _grid_table(title: str, columns: Mapping[str, Column]) -> str:
    pairs = sorted({count for column in columns.values() for _, count in column.values() if count})
    counted = f"n = {pairs[0]}" if len(pairs) == 1 else f"n = {pairs[0]} to {pairs[-1]}"
    lines = [
        f"| {title}, {counted} | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for arm in dict.fromkeys(arm for column in columns.values() for arm in column):
        cells = [column.get(arm, ("-", 0))[0] for column in columns.values()]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _columns(
    rows: Sequence[Row], measure: str, bases: Mapping[str, str] | None, alternative: str
) -> dict[str, Column]:
    """The cells of each detector; every one has all arms."""
    arms = list(dict.fromkeys(row.cell.arm for row in rows))
    detectors = list(dict.fromkeys(row.cell.detector for row in rows))
    values: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    for row in rows:
        key = row.cell.arm, row.cell.detector
        values.setdefault(key, {})[row.cell.pair] = row.measures[measure] or 0.0
    most = max(map(len, values.values()), default=0)
    columns: dict[str, dict[str, tuple[str, int]]] = {detector: {} for detector in detectors}
    for arm in arms:
        base = (bases or {}).get(arm, arms[0])
        differences = [
            paired_differences(values.get((arm, d), {}), values.get((base, d), {}))
            for d in detectors
        ]
        corrected = statistics.holm([statistics.p_value(d, alternative) for d in differences])
        for d, difference, p in zip(detectors, differences, corrected, strict=True):
            own = values.get((arm, d), {})
            text = _grid_cell(own, [] if arm == base else difference, p, most)
            columns[d][arm] = text, len(own)
    return columns


def paired_differences(
    after: Mapping[tuple[int, int], float], before: Mapping[tuple[int, int], float]
) -> list[float]:
    """Differences of the pairs of draw and seed that both sides have."""
    return [after[pair] - before[pair] for pair in after if pair in before]


def _grid_cell(
    values: Mapping[tuple[int, int], float],
    differences: Sequence[float],
    p_value: float,
    most: int,
) -> str:
    if not values:
        return "-"
    text = spread_text(statistics.spread(list(values.values())))
    if not differences:
        return text
    p_text = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    if len(differences) < most:
        p_text += f", n = {len(differences)}"
    return f"{text}, {statistics.mean_sd(differences)[0]:+.3f} ({p_text})"
