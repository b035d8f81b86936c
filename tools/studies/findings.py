"""What the demo's numbers say: the best arm by each measure, the finding in a sentence, a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from tools.studies import statistics
from tools.studies.runs import MEASURES as RULE_MEASURES
from tools.studies.tables import difference_text, spread_text

# Measures in the order of the tables, and what they are called.
NAMES = {"auc": "AUC", "auc_abnormal": "abnormal-only AUC", "ap": "AP", "far": "FAR"}
# Two runs of either side agree by chance every other time.
_FEWEST = 3
_DETECTORS = {
    "lap": "LAP", "tevad": "TEVAD", "rtfm": "RTFM", "ur_dmu": "UR-DMU", "mil_rank": "MIL-Rank",
}  # fmt: skip


def direction(measure: str) -> str:
    """An arrow: up where higher is better, down where lower is."""
    return "↓" if measure in statistics.SMALLER_IS_BETTER else "↑"


def best(arms: Mapping[str, Any], measure: str) -> set[str]:
    """Names of the arms whose mean is best, as far as three digits tell."""
    means = {name: round(arm[measure]["mean"], 3) for name, arm in arms.items()}
    choose = min if measure in statistics.SMALLER_IS_BETTER else max
    return {name for name, mean in means.items() if mean == choose(means.values())}


def detector_name(name: str) -> str:
    """The name of a detector as its paper writes it."""
    return _DETECTORS.get(name, name)


def finding(result: Mapping[str, Any]) -> str:
    """Answers in a sentence whether generated videos help, by the last arm against the first.

    They do, or do harm, where all seeds of at least three say so; otherwise nobody can tell.

    Args:
      result: what tools.studies.arms.run returns.
    """
    names, seeds, real = list(result["arms"]), result["seeds"], result["trained"]["real"]
    base, published, here = (result["arms"][name] for name in names)
    change, as_published = here["difference"]["auc"], published["difference"]["auc"]
    losses = sum(a["auc"] < b["auc"] for a, b in zip(here["runs"], base["runs"], strict=True))
    verdict = "This run can't tell"
    if seeds >= _FEWEST and change["wins"] == seeds:
        verdict = "In this run they do"
    elif seeds >= _FEWEST and losses == seeds:
        verdict = "In this run they don't"
    return (
        f"{verdict}: beside {real['abnormal']} abnormal and {real['normal']} normal real videos, "
        f"generated ones take {detector_name(result['detector'])}'s frame AUC from "
        f"{base['auc']['mean']:.3f} to {here['auc']['mean']:.3f} as GV-VAD trains on them here "
        f"({change['mean']:+.3f}, better in {change['wins']} of {seeds} seeds), and to "
        f"{published['auc']['mean']:.3f} as published ({as_published['mean']:+.3f}, "
        f"{as_published['wins']} of {seeds})."
    )


def table(result: Mapping[str, Any]) -> str:
    """The demo's result as text: the finding, the arms, their differences, and the rules."""
    arms, rules = result["arms"], result["rules"]
    width = max(map(len, (*arms, *rules))) + 12

    def row(name: str, cells: Sequence[str]) -> str:
        return f"{name:{width}s}" + "".join(f"{cell:>22s}" for cell in cells)

    def cell(name: str, measure: str) -> str:
        mark = " *" if name in best(arms, measure) else "  "
        return spread_text(arms[name][measure]) + mark

    lines = [result["finding"], ""]
    lines.append(row("", [f"{title} {direction(m)} " for m, title in NAMES.items()]))
    lines += [row(name, [cell(name, m) for m in NAMES]) for name in arms]
    lines.append("* best of the arms; ↑ higher is better, ↓ lower is better")
    lines += ["", f"paired difference to real only (better in so many of {result['seeds']} seeds)"]
    lines += [
        row(name, [difference_text(arm["difference"][m]) + " " for m in NAMES])
        for name, arm in list(arms.items())[1:]
    ]
    lines += ["", "without training:"]
    for rule, entry in rules.items():
        sign = " (flipped)" if entry["flipped"] else ""
        lines.append(row(rule + sign, [f"{entry[m]:.3f}  " for m in RULE_MEASURES]))
    counts = result["filter"]
    lines += ["", f"filter: {counts['kept']} kept, {counts['dropped']} dropped {counts['reasons']}"]
    if result["caught"]:
        caught = ", ".join(f"{name} {n} of {all}" for name, (n, all) in result["caught"].items())
        lines.append(f"dropped by what the world planted: {caught}")
    if result["rendered"]:
        lines += ["", RENDERED]
    return "\n".join(lines)


RENDERED = (
    "The footage is RENDERED by the built-in world, and so are the generated videos: no number "
    "here is about real video."
)
