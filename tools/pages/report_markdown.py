"""The comparison of training runs as Markdown, with its plots as SVG files."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tools.pages.rendering import render


def pictures(values: Mapping[str, Any]) -> dict[str, str]:
    """The plots of report.content as SVG files, by their names."""
    calibration = values["calibration"]["plot"]
    by_section = {
        "training": values["training"],
        "test": values["test_curves"],
        "calibration": [calibration] if calibration else [],
        "video": [video["plot"] for video in values["videos"]],
    }
    return {
        f"{section}-{number}.svg": render("report.svg", plot=drawn, runs=values["runs"]).strip()
        for section, plots in by_section.items()
        for number, drawn in enumerate(plots)
    }


def markdown(values: Mapping[str, Any], folder: str) -> str:
    """Renders report.content as Markdown.

    Args:
      values: of report.content.
      folder: path of the folder with the files of `pictures`, from the Markdown file.
    """
    names = [run["name"] for run in values["runs"]]
    several = len(names) > 1
    blocks = [
        f"# {len(names)} training run{'s' if several else ''}{' compared' if several else ''}",
        _text(values["headline"]),
        "\n".join(f"- {_text(note)}" for note in values["notes"]),
        "## Results",
        _table(
            ["run", "detector", "steps", *values["header"]],
            [
                [row["name"] + (" †" if row["recorded"] else ""), row["detector"], row["steps"],
                 *row["cells"]]
                for row in values["results"]
            ],
        ),
        f"Checkpoint: {values['checkpoint']}."
        + (
            f" Below: 95 % bootstrap intervals, {values['draws']} draws of {values['units']} test "
            "videos (or groups of videos)."
            if values["units"]
            else ""
        )
        + (" † from result.json." if any(row["recorded"] for row in values["results"]) else ""),
    ]  # fmt: skip
    if values["seeds"]:
        rows = [[row["name"], row["seeds"], *row["cells"]] for row in values["seeds"]]
        header = ["runs that differ in their seed alone", "seeds", *values["header"]]
        blocks += ["## Over seeds", _table(header, rows)]
        blocks.append("Mean ± standard deviation; below, Student's 95 % interval of the mean.")
    if values["compared"]:
        rows = [[row["name"], *row["cells"]] for row in values["compared"]]
        header = ["run", *values["compared_header"]]
        blocks += [f"## Differences to {_text(values['base'])}", _table(header, rows)]
        blocks.append("On the same draws of test videos; p is corrected (Holm), bold below 0.05.")
    images = _images(values, folder)
    blocks += ["## Training", images["training"] or "No run has a log."]
    if images["test"]:
        blocks += ["## ROC and precision-recall", images["test"]]
    if values["classes"]:
        rows = [[row["name"], row["videos"], *row["cells"]] for row in values["classes"]]
        blocks += ["## AUC by class", _table(["class", "videos", *names], rows)]
    if images["calibration"] or values["calibration"]["without"]:
        without = "\n".join(f"- {_text(line)}" for line in values["calibration"]["without"])
        blocks += ["## Calibration", images["calibration"], without]
    if images["video"]:
        shown = f"Shaded: abnormal in truth. Shown: {_text(values['chosen_how'])}."
        blocks += ["## Score curves", shown, images["video"]]
    differing = [[name, *(value or "–" for value in row)] for name, row in values["settings"]]
    blocks += [
        "## Settings that differ",
        _table(["", *names], differing) if differing else "None.",
        _colours(values["runs"]),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _images(values: Mapping[str, Any], folder: str) -> dict[str, str]:
    """The images of each section."""
    titles = {
        "training": [p["title"] for p in values["training"]],
        "test": [p["title"] for p in values["test_curves"]],
        "calibration": [p["title"] for p in (values["calibration"]["plot"],) if p],
        "video": [f"{video['id']} ({video['kind']})" for video in values["videos"]],
    }
    return {
        section: "\n\n".join(
            f"{_text(title)}\n\n![{_text(title)}]({folder}/{section}-{number}.svg)"
            for number, title in enumerate(each)
        )
        for section, each in titles.items()
    }


def _colours(runs: Sequence[Mapping[str, Any]]) -> str:
    """Which line is whose: a picture has no legend of its own."""
    names = ("blue", "brown", "green", "violet", "red", "teal", "pink", "olive")
    dashes = {"": "", "7 3": " dashed", "2 3": " dotted", "8 3 2 3": " dash-dotted"}
    lines = [f"{_text(run['name'])} {names[run['colour']]}{dashes[run['dash']]}" for run in runs]
    return f"Lines of the plots: {', '.join(lines)}."


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; a cell is text, or a mapping with its value, interval and whether it is bold."""
    lines = [header, ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(
        "| " + " | ".join(c if n else _text(c) for c in line) + " |" for n, line in enumerate(lines)
    )


def _cell(cell: Any) -> str:
    if not isinstance(cell, Mapping):
        return _text(str(cell))
    text = _text(cell["value"])
    if cell["best"]:
        text = f"**{text}**"
    return text + (f"<br>{_text(cell['interval'])}" if cell.get("interval") else "")


def _text(text: str) -> str:
    """Text in which no character means anything to Markdown or HTML, in one line."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
