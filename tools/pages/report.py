"""The page that compares training runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax import curves, events
from tools.pages import report_runs, report_scores
from tools.pages.rendering import render
from tools.pages.report_plots import Line, plot
from tools.pages.report_runs import Run
from tools.studies import statistics
from tools.studies.findings import detector_name

# Colours (--run0 ... of templates/report.html) and dashes of lines.
COLOURS = 8
DASHES = ("", "7 3", "2 3", "8 3 2 3")
# Measures of the table of results: their titles, and whether less is better.
MEASURES = {
    "auc": ("AUC", False),
    "ap": ("AP", False),
    "auc_abnormal": ("abnormal-only AUC", False),
    "far": ("FAR", True),
    "video_auc": ("video AUC", False),
    "alarms_per_hour": ("alarms an hour", True),
    "ece": ("ECE", True),
}
# Measures whose differences are tested.
COMPARED = ("auc", "ap", "auc_abnormal", "video_auc")
# Values of the log that have a plot: their titles.
TRAINING = {
    "loss": "Loss",
    "validation_auc": "Validation AUC, by video",
    "test_auc": "Test AUC, by frame",
    "lambda": "Lambda",
    "cost_real": "Loss of the real videos",
    "cost_synthetic": "Loss of the generated videos, before lambda",
    "grad_norm": "Norm of the gradient",
    "grad_norm_real": "Norm of the real videos' gradient",
    "grad_norm_synthetic": "Norm of the generated videos' gradient",
    "grad_cosine": "Cosine of both gradients",
    "validation_loss": "Validation loss",
}
# Values that say nothing in a run without generated videos.
_OF_GENERATED = ("lambda", "lambda_gradient", "cost_synthetic", "cost_scaled", "cost_real",
                 "grad_norm_real", "grad_norm_synthetic", "grad_cosine")  # fmt: skip


def content(
    runs: Sequence[Run],
    videos: Sequence[str],
    chosen_how: str,
    checkpoint: str = "last",
    draws: int = report_runs.DRAWS,
) -> dict[str, Any]:
    """What the page shows, and its Markdown: the values of the template.

    Args:
      runs: the runs, in the order to show them in.
      videos: ids of the test videos whose scores are shown.
      chosen_how: how these were chosen.
      checkpoint: which checkpoint's measures are compared.
      draws: draws of the bootstrap.
    """
    groups = report_runs.groups(runs)
    measures = [_measures(run, checkpoint) for run in runs]
    base = next((n for n, run in enumerate(runs) if run.scores), 0)
    compared = report_scores.compare([run.scores for run in runs], base, draws)
    return {
        "runs": _legend(runs, groups),
        "headline": headline(runs, measures, draws),
        "notes": _notes(runs),
        "checkpoint": checkpoint.replace("_", " "),
        "header": [f"{title} {'↓' if less else '↑'}" for title, less in MEASURES.values()],
        "results": _result_rows(runs, measures),
        "draws": draws,
        "units": next((run.scores.measures["intervals"]["units"] for run in runs
                       if run.scores and "intervals" in run.scores.measures), None),
        "alignments": sorted({str(run.scores.measures["alignment"]) for run in runs
                              if run.scores and not run.scores.scored.unlabelled}),
        "seeds": _seed_rows(groups, measures, runs),
        "base": runs[base].name,
        "compared_header": [MEASURES[name][0] for name in COMPARED],
        "compared": _compared_rows(runs, compared),
        "training": _training(runs),
        "terms": _terms(runs),
        "test_curves": _test_curves(runs),
        "calibration": _calibration(runs),
        "classes": _class_rows(runs, measures),
        "videos": [_video(runs, video_id) for video_id in videos],
        "chosen_how": chosen_how,
        "settings": report_runs.differences(runs),
        "same": _same(runs),
    }  # fmt: skip


def page(values: Mapping[str, Any]) -> str:
    """Renders `content` as HTML."""
    return render("report.html", **values)


def _legend(runs: Sequence[Run], groups: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
    """Name and line of each run: runs that differ in their seed alone share their colour."""
    place = {run.name: (g, n) for g, group in enumerate(groups) for n, run in enumerate(group)}
    legend = []
    for number, run in enumerate(runs):
        group, member = place[run.name]
        dash = DASHES[(group // COLOURS + member) % len(DASHES)]
        legend.append({"number": number, "name": run.name, "colour": group % COLOURS, "dash": dash})
    return legend


def _measures(run: Run, checkpoint: str) -> dict[str, Any]:
    """A run's measures by name, with `intervals` where it was scored; empty if there are none."""
    if run.scores:
        return dict(run.scores.measures)
    recorded = run.result.of(checkpoint) if run.result else None
    if recorded is None:
        return {}
    return {name: getattr(recorded, name) for name in (*MEASURES, "per_class", "videos", "frames")}


def headline(runs: Sequence[Run], measures: Sequence[Mapping[str, Any]], draws: int) -> str:
    """The finding, in a sentence or two."""
    ranked = sorted(
        (n for n, each in enumerate(measures) if each.get("auc") is not None),
        key=lambda n: (-measures[n]["auc"], n),
    )
    if not ranked:
        return "No run has a frame AUC yet."
    first = ranked[0]
    value, bounds = measures[first]["auc"], measures[first].get("intervals", {}).get("auc")
    between = f" (95 % interval {bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
    count = measures[first]["videos"]
    if len(ranked) == 1:
        return f"{runs[first].name} has a frame AUC of {value:.3f}{between} on {count} test videos."
    text = (
        f"Of {len(ranked)} runs {runs[first].name} has the highest frame AUC, {value:.3f}{between} "
        f"on {count} test videos."
    )
    second = ranked[1]
    pair = [runs[second].scores, runs[first].scores]
    compared = report_scores.compare(pair, 0, draws).get(1)
    if compared is None or compared["auc"]["interval"] is None:
        return text
    difference, (low, high) = compared["auc"]["difference"], compared["auc"]["interval"]
    verdict = (
        "these videos can't tell the two apart"
        if low <= 0 <= high
        else "these videos tell them apart"
    )
    return (
        f"{text} It is {difference:.3f} ahead of {runs[second].name} (95 % interval {low:+.3f} to "
        f"{high:+.3f}): {verdict}."
    )


def _notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before comparing the numbers."""
    notes = [f"{run.name}: {run.reason}." for run in runs if run.reason]
    notes += [
        f"{run.name}: no measures of frames: {run.scores.scored.unlabelled}."
        for run in runs
        if run.scores and run.scores.scored.unlabelled
    ]
    tested = {_tested(run) for run in runs} - {None}
    if len(tested) > 1:
        notes.append(
            "The runs were measured on different test videos, so their measures can't be compared "
            "(--store gives all runs the same)."
        )
    return notes


def _tested(run: Run) -> tuple[Any, ...] | None:
    """What a run was measured on, as far as it is known."""
    if run.scores:
        return len(run.scores.scored.abnormal), run.scores.measures["frames"]
    last = run.result.last if run.result else None
    return (last.videos, last.frames) if last else None


def _result_rows(
    runs: Sequence[Run], measures: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    best = {
        name: (min if less else max)(values)
        for name, (_, less) in MEASURES.items()
        if len(values := [v for each in measures if (v := each.get(name)) is not None]) > 1
    }
    return [
        {
            "run": number,
            "name": run.name,
            "detector": detector_name(run.settings.get("detector", "")),
            "steps": run.result.steps if run.result else (run.log[-1][0] if run.log else 0),
            "recorded": run.scores is None,
            "cells": [_cell(measures[number], name, best.get(name)) for name in MEASURES],
        }
        for number, run in enumerate(runs)
    ]


def _cell(measures: Mapping[str, Any], name: str, best: float | None) -> dict[str, Any]:
    value, bounds = measures.get(name), measures.get("intervals", {}).get(name)
    return {
        "value": show(value, name),
        "interval": f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "",
        "best": value is not None and value == best,
    }


def show(value: float | None, name: str = "") -> str:
    """A measure as text: three digits, or three significant ones for alarms an hour."""
    if value is None:
        return "–"
    return events.three_digits(value) if name == "alarms_per_hour" else f"{value:.3f}"


def _seed_rows(
    groups: Sequence[Sequence[Run]],
    measures: Sequence[Mapping[str, Any]],
    runs: Sequence[Run],
) -> list[dict[str, Any]]:
    """Mean and deviation over runs that differ in their seed alone; empty where none do."""
    if all(len(group) == 1 for group in groups):
        return []
    number = {run.name: n for n, run in enumerate(runs)}
    rows = []
    for group in groups:
        cells = []
        for name in MEASURES:
            values = [v for r in group if (v := measures[number[r.name]].get(name)) is not None]
            text, interval = "–", ""
            if values:
                mean, sd = statistics.mean_sd(values)
                text = show(mean, name) + (f" ± {show(sd, name)}" if len(values) > 1 else "")
                if (bounds := statistics.interval(values)) and name != "alarms_per_hour":
                    interval = f"{bounds[0]:.3f} to {bounds[1]:.3f}"
            cells.append({"value": text, "interval": interval, "best": False})
        names = ", ".join(run.name for run in group)
        rows.append({"run": number[group[0].name], "name": names, "seeds": len(group),
                     "cells": cells})  # fmt: skip
    return rows


def _compared_rows(
    runs: Sequence[Run], compared: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    rows = []
    for number, by_name in compared.items():
        cells = []
        for entry in (by_name.get(name) for name in COMPARED):
            if entry is None or entry["difference"] is None:
                cells.append({"value": "–", "interval": "", "best": False})
                continue
            low, high = entry["interval"]
            cells.append(
                {
                    "value": f"{entry['difference']:+.3f}",
                    "interval": f"{low:+.3f} to {high:+.3f}, p {_p(entry['p_holm'])}",
                    "best": entry["p_holm"] < 0.05,
                }
            )
        rows.append({"run": number, "name": runs[number].name, "cells": cells})
    return rows


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _training(runs: Sequence[Run]) -> list[dict[str, Any]]:
    generated = any(run.settings.get("synthetic_store") for run in runs)
    names = [name for name in TRAINING if generated or name not in _OF_GENERATED]
    return [p for name in names if (p := _logged(runs, name, TRAINING[name]))]


def _terms(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Plots of all other values of the log."""
    logged = {name for run in runs for _, values in run.log for name in values}
    names = sorted(logged - set(TRAINING) - {"cost", "cost_scaled"})
    return [p for name in names if (p := _logged(runs, name, name.replace("_", " ").capitalize()))]


def _logged(runs: Sequence[Run], name: str, title: str) -> dict[str, Any] | None:
    lines = []
    for number, run in enumerate(runs):
        if name in _OF_GENERATED and not run.settings.get("synthetic_store"):
            continue
        if series := run.series(name):
            lines.append(Line(number, series))
    if not lines:
        return None
    # An AUC that doesn't reach below 0.5 is shown from there.
    shares = name.endswith("auc")
    lowest = min(value for line in lines for _, value in line.places)
    y_range = ((0.5 if lowest >= 0.5 else 0.0), 1.0) if shares else None
    # The same steps in every plot, so that they can be read below each other.
    last = max(step for run in runs for step, _ in run.log)
    return plot(title, lines, x_label="step", x_range=(0.0, float(last)), y_range=y_range)


def _test_curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    roc, recall = [], []
    for number, run in enumerate(runs):
        if not run.scores or run.scores.scored.unlabelled:
            continue
        frames = run.scores.scored
        scores_F = np.concatenate([frames.scores[i] for i in frames.abnormal])
        labels_F = np.concatenate([frames.labels[i] for i in frames.abnormal])
        for curve, lines in (
            (curves.roc(scores_F, labels_F), roc),
            (curves.precision_recall(scores_F, labels_F), recall),
        ):
            if curve is not None:
                lines.append(Line(number, list(zip(curve.x_K, curve.y_K, strict=True))))
    square: dict[str, Any] = {"x_range": (0.0, 1.0), "y_range": (0.0, 1.0)}
    plots = []
    if roc:
        plots.append(
            plot("ROC: true positive rate", roc, x_label="false positive rate", diagonal=True,
                 **square)
        )  # fmt: skip
    if recall:
        plots.append(plot("Precision", recall, x_label="recall", **square))
    return plots


def _calibration(runs: Sequence[Run]) -> dict[str, Any]:
    lines, without = [], []
    for number, run in enumerate(runs):
        if not run.scores:
            continue
        chances = run.scores.scored.chances
        if chances is None:
            reason = run.scores.measures["reasons"].get("ece", "the run has no temperature")
            without.append(f"{run.name}: {reason}")
            continue
        abnormal = run.scores.scored.abnormal
        bins = curves.calibration_bins([chances[i] for i in abnormal], list(abnormal.values()))
        lines.append(Line(number, [(b.mean, b.abnormal) for b in bins if b.videos], True))
    drawn = None
    if lines:
        drawn = plot("Share of abnormal videos", lines, x_label="calibrated video score",
                     x_range=(0.0, 1.0), y_range=(0.0, 1.0), diagonal=True)  # fmt: skip
    return {"plot": drawn, "without": without}


def _class_rows(runs: Sequence[Run], measures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for run in runs:
        if run.scores:
            listed = run.scores.scored
            names = [listed.classes.get(i) for i in listed.abnormal_ids]
            counts |= {name: names.count(name) for name in names if name}
    rows = []
    for name in sorted({c for each in measures for c in each.get("per_class", {})}):
        values = [each.get("per_class", {}).get(name) for each in measures]
        known = [value for value in values if value is not None]
        best = max(known) if len(known) > 1 else None
        rows.append(
            {
                "name": name,
                "videos": counts.get(name, "–"),
                "cells": [{"value": show(v), "best": v is not None and v == best} for v in values],
            }
        )
    return rows


def _video(runs: Sequence[Run], video_id: str) -> dict[str, Any]:
    lines, spans, kind = [], [], "normal"
    end = 0.0
    for number, run in enumerate(runs):
        scored = run.scores.scored if run.scores else None
        if scored is None or video_id not in scored.abnormal or not scored.snippets:
            continue
        assert scored.times is not None
        times_Tx2, scores_T = scored.times[video_id], scored.snippets[video_id]
        end = max(end, float(times_Tx2[-1, 1]))
        # At each snippet's middle; the first and last reach to the video's ends.
        places = list(zip(times_Tx2.mean(axis=1).tolist(), scores_T.tolist(), strict=True))
        places = [(0.0, places[0][1]), *places, (float(times_Tx2[-1, 1]), places[-1][1])]
        lines.append(Line(number, places))
        spans = (scored.intervals or {}).get(video_id, spans)
        if scored.abnormal[video_id]:
            kind = scored.classes.get(video_id) or "abnormal"
    drawn = plot(video_id, lines, x_label="seconds", x_range=(0.0, end), y_range=(0.0, 1.0),
                 spans=spans)  # fmt: skip
    return {"id": video_id, "kind": kind, "plot": drawn | {"title": f"{video_id} ({kind})"}}


def _same(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(flag, value) of the settings that all runs share and that aren't the defaults."""
    different = {name for name, _ in report_runs.differences(runs)}
    defaults = report_runs.defaults()
    first = runs[0].settings
    return [
        (f"--{name}", first[name])
        for name in sorted(first)
        if f"--{name}" not in different and first[name] != defaults.get(name)
        and all(run.settings.get(name) == first[name] for run in runs)
    ]  # fmt: skip
