"""Prints the figures of a JSON file of the bench as the tables of docs/performance.md."""

from collections.abc import Iterable, Mapping
from typing import Any


def markdown(figures: Mapping[str, Any]) -> str:
    """The tables of the sections that have one, with the machine in the first line."""
    machine = figures.get("machine", {})
    name = machine.get("torch_device") or machine.get("name") or machine.get("device", "unknown")
    made = {"step": _step, "run": _run, "streaming": _streaming, "crops": _auc, "accuracy": _auc}
    tables = [_table(*made[section](figures[section])) for section in made if section in figures]
    return "\n\n".join([f"{name}, {machine.get('cores', '?')} cores", *tables])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _step(section: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = ["detector", "segments", "precision", "ours", "PyTorch", "ratio", "with torch.compile",
            "ratio, text once", "share of the best product", "of the data sheet"]  # fmt: skip
    rows = []
    for detector, by_segments in section.items():
        for segments, whole in by_segments.items():
            for precision, row in whole.get("precisions", {"float32": whole}).items():
                cells = [_seconds(row.get(name)) for name in ("seconds", "torch_seconds")]
                cells += [_times(row, f"ratio{end}") for end in ("", "_compiled", "_text_once")]
                cells += [_share(row.get(f"share_of_{of}_peak")) for of in ("matmul", "rated")]
                rows.append([detector, segments, precision, *cells])
    return head, rows


def _run(section: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = ["recipe", "whole run", "a step", "an evaluation", "evaluations", "times the published"]
    rows = [
        [name, _seconds(row["seconds"]), _seconds(row["step_seconds"]),
         _seconds(row["evaluation_seconds"]), f"{row['evaluations']:.0f}", _times(row, "ratio")]
        for name, row in section.items() if "step_seconds" in row
    ]  # fmt: skip
    return head, rows


def _streaming(section: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = ["detector", "window", "a snippet", "the first one", "operations, M", "with a cache, M"]
    rows = [
        [detector, window, _seconds(row["ms"] / 1000), _seconds(row["first_ms"] / 1000),
         *(f"{row[name]:.1f}" for name in ("mflop", "mflop_cached"))]
        for detector, windows in section.items() if detector != "delay"
        for window, row in windows.items()
    ]  # fmt: skip
    return head, rows


def _auc(section: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [name, f"{row['auc']:.3f} +- {row['deviation']:.3f}",
         f"{row['difference']:+.3f} +- {row['difference_deviation']:.3f}"]
        for name, row in section.items()
    ]  # fmt: skip
    return ["", "AUC", "difference to the first"], rows


def _seconds(value: float | None) -> str:
    """1.3 ms, 2.4 s, 3.1 min or 4.0 h; a dash for None."""
    if value is None:
        return "-"
    for unit, least, size in (("h", 3600, 3600), ("min", 120, 60), ("s", 1, 1)):
        if value >= least:
            return f"{_short(value / size)} {unit}"
    return f"{_short(1000 * value)} ms"


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


def _times(row: Mapping[str, Any], name: str) -> str:
    """The median ratio and all rounds'."""
    if row.get(name) is None:
        return "-"
    rounds = sorted(row.get(name.replace("ratio", "ratios"), []))
    every = f" ({', '.join(f'{ratio:.1f}' for ratio in rounds)})" if rounds else ""
    return f"**{row[name]:.1f}**{every}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
