"""The demo's page: tables, and score curves of some test videos."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tools.pages.rendering import points, render
from tools.studies.tables import difference_text, spread_text

MEASURES = {"auc": "AUC", "auc_abnormal": "AUC, abnormal videos only", "ap": "AP", "far": "FAR"}
# Width and height of a plot, and margins for its labels, in SVG units.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 120, 30, 18
# Flags that differ from run to run.
_RUN_FLAGS = ("--store=", "--synthetic_", "--workdir=", "--seed=", "--annotations=")


def page(result: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]) -> str:
    """Renders the demo's result as HTML.

    Args:
      result: what tools.studies.arms.run returns.
      curves: one mapping for each test video shown: id, label, fps, intervals ([start, end) in
        frames), scores (float [frames] by arm) and pictures ((frame, RGB uint8 [H, W, 3]) pairs).
    """
    arms, train_flags = result["arms"], result["flags"].splitlines()
    data_flags = [f"--{k}={v}" for k, v in result["plan"].items() if v not in (None, "")]
    counts = result["filter"]
    return render(
        "demo.html",
        result=result,
        header=["", *MEASURES.values()],
        results=_result_rows(result),
        differences=[
            [name, *(difference_text(arm["difference"][m], between="±") for m in MEASURES)]
            for name, arm in list(arms.items())[1:]
        ],
        filtered=[
            ["kept", counts["kept"]],
            ["dropped", counts["dropped"]],
            *([f"dropped: {reason}", count] for reason, count in counts["reasons"].items()),
        ],
        caught=[[name, *numbers] for name, numbers in (result["caught"] or {}).items()],
        shown=list(curves[0]["scores"]) if curves else [],
        plots=[_plot(curve) for curve in curves],
        data_flags="\n".join(data_flags),
        train_flags="\n".join(line for line in train_flags if not line.startswith(_RUN_FLAGS)),
        provenance=json.dumps(result["provenance"], indent=1),
    )


def _result_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [name, *(spread_text(arm[m], between="±") for m in MEASURES)]
        for name, arm in result["arms"].items()
    ]
    for rule, entry in result["rules"].items():
        name = rule + (", sign flipped" if entry["flipped"] else "")
        rows.append([name, f"{entry['auc']:.3f}", f"{entry['auc_abnormal']:.3f}", "–", "–"])
    return rows


def _plot(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Coordinates of a plot of scores over seconds, in which the true intervals are shaded."""
    fps = curve["fps"]
    num_frames = max(len(scores) for scores in curve["scores"].values())
    seconds = num_frames / fps

    def x(frame: float) -> float:
        return _LEFT + frame / max(num_frames, 1) * (_WIDTH - _LEFT)

    def y(score: float) -> float:
        return 4 + (1 - float(np.clip(score, 0, 1))) * (_HEIGHT - 4)

    return {
        "id": curve["id"],
        "kind": "abnormal" if curve["label"] else "normal",
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "bottom": _BOTTOM,
        "intervals": [
            (f"{x(start):.1f}", f"{x(end) - x(start):.1f}") for start, end in curve["intervals"]
        ],
        "levels": [(f"{s:g}", f"{y(s):.1f}", f"{y(s) + 4:.1f}") for s in (0, 0.5, 1)],
        "ticks": [
            (f"{tick:g}", f"{x(tick * fps):.1f}")
            for tick in np.arange(0, seconds, 5 if seconds > 8 else 1)
        ],
        "curves": [
            points((x(frame + 0.5), y(score)) for frame, score in enumerate(scores))
            for scores in curve["scores"].values()
        ],
        "pictures": [(frame, f"{frame / fps:.1f}", image) for frame, image in curve["pictures"]],
    }
