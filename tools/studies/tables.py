"""Tables of studies as text: mean +- standard deviation over runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from tools.studies.runs import MEASURES

# How measures are called in tables, in their order.
NAMES = {"auc": "AUC", "auc_abnormal": "abnormal-only", "ap": "AP", "far": "FAR"}


def spread_text(entry: Mapping[str, float], sign: str = "", between: str = "+-") -> str:
    """{"mean", "sd"} as "0.912 +- 0.013"; sign "+" shows the sign of the mean always."""
    return f"{entry['mean']:{sign}.3f} {between} {entry['sd']:.3f}"


def difference_text(entry: Mapping[str, float], between: str = "+-") -> str:
    """A paired difference as "+0.012 +- 0.010 (3)", with the number of pairs won."""
    return f"{spread_text(entry, '+', between)} ({entry['wins']})"


def _both(entry: Mapping[str, Mapping[str, float]], sign: str = "") -> str:
    """AUC / abnormal-only AUC."""
    return " / ".join(spread_text(entry[m], sign) for m in MEASURES)


def arms_table(result: Mapping[str, Any]) -> str:
    """The demo's result: every arm and baseline, then the differences to the first arm."""
    width = max(len(name) for name in result["arms"]) + 2

    def row(name: str, cells: Sequence[str], cell_width: int = 18) -> str:
        return f"{name:{width}s}" + "".join(f"{cell:>{cell_width}s}" for cell in cells)

    lines = [row("", list(NAMES.values()))]
    lines += [
        row(name, [spread_text(arm[m]) for m in NAMES]) for name, arm in result["arms"].items()
    ]
    for rule, entry in result["rules"].items():
        sign = " (flipped)" if entry["flipped"] else ""
        lines.append(row(rule + sign, [*(f"{entry[m]:.3f}" for m in MEASURES), "-", "-"]))
    lines.append("")
    lines.append(f"paired difference to real only (better in so many of {result['seeds']} seeds)")
    lines += [
        row(name, [difference_text(arm["difference"][m]) for m in NAMES], 22)
        for name, arm in list(result["arms"].items())[1:]
    ]
    counts = result["filter"]
    lines.append("")
    lines.append(f"filter: {counts['kept']} kept, {counts['dropped']} dropped {counts['reasons']}")
    if result["caught"]:
        caught = ", ".join(f"{name} {n} of {all}" for name, (n, all) in result["caught"].items())
        lines.append(f"dropped by what the world planted: {caught}")
    return "\n".join(lines)


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


def detectors_table(result: Mapping[str, Any]) -> str:
    """The detectors study as Markdown, a table for each footage."""
    lines = [f"{result['steps']} steps, {result['seeds']} seeds"]
    for footage, part in result["footage"].items():
        arms = [name for name in next(iter(part["detectors"].values())) if name != "difference"]
        lines += [
            "",
            f"| {footage} | {' | '.join(arms)} | difference (better in) |",
            "|---|---|---|---|",
        ]
        for detector, entry in part["detectors"].items():
            difference = entry["difference"]
            wins = " / ".join(str(difference[m]["wins"]) for m in MEASURES)
            cells = [*(_both(entry[arm]) for arm in arms), f"{_both(difference, '+')} ({wins})"]
            lines.append(f"| {detector} | {' | '.join(cells)} |")
        for rule, entry in part["rules"].items():
            name = rule + (", sign flipped" if entry["flipped"] else "")
            lines.append(f"| {name} | {entry['auc']:.3f} / {entry['auc_abnormal']:.3f} | | |")
    return "\n".join(lines)
