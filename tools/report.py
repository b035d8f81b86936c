"""The demo's page: one HTML file with inline SVG, readable in light and dark, without a network."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tools.html_page import document, escape, picture, table

MEASURES = {"auc": "AUC", "auc_abnormal": "AUC, abnormal videos only", "ap": "AP", "far": "FAR"}
_PLOT = (640, 120)  # width, height of a curve in SVG units
_LEFT, _BOTTOM = 30, 18


def page(found: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]) -> str:
    """The demo's result as HTML.

    Args:
      found: what tools.demo's `run` returns.
      curves: a test video each: id, label, fps, intervals ([start, end) in frames), scores
        (float [frames] by arm) and pictures ((frame, RGB uint8 [H, W, 3]) pairs).

    Returns:
      A whole page. Every text in it is escaped.
    """
    footage = (
        "The footage on this page is RENDERED by the built-in world. It stands for real "
        "surveillance video; no number here is a result on real video, and the generated videos "
        "are rendered too."
        if found["rendered"]
        else "The footage is the videos.json that the demo was given."
    )
    counts = found["data"]
    sections = [
        "<h1>Does training on generated videos help?</h1>",
        f'<p class="warn"><strong>{escape(footage)}</strong></p>',
        f"<p>One detector, five ways to train it, {found['seeds']} seeds each. "
        f"{counts['train']} training and {counts['test']} held-out videos of footage, "
        f"{counts['generated']} generated ones; training sees video labels only. "
        "Last checkpoint; the test videos selected nothing.</p>",
        "<h2>Frames of held-out footage</h2>",
        _results(found),
        "<h2>Paired differences to real videos only</h2>",
        _differences(found),
        "<h2>What the filter did</h2>",
        _filter(found),
        "<h2>Score curves, seed 0</h2>",
        _curves(curves),
        "<h2>How it was made</h2>",
        _provenance(found),
    ]
    return document("GV-VAD demo", sections)


def _results(found: Mapping[str, Any]) -> str:
    rows = [
        [name, *("{mean:.3f} ± {sd:.3f}".format(**arm[m]) for m in MEASURES)]
        for name, arm in found["arms"].items()
    ]
    for rule, entry in found["rules"].items():
        name = rule + (", sign flipped" if entry["flipped"] else "")
        rows.append([name, f"{entry['auc']:.3f}", f"{entry['auc_abnormal']:.3f}", "–", "–"])
    note = (
        "Mean ± standard deviation over seeds. FAR: share of normal frames scored above 0.5. Rules "
        "score each frame without any training and count with the better of their two signs; the "
        "oracle gives every frame its video's true label, so it localises nothing."
    )
    return table(["", *MEASURES.values()], rows) + f'<p class="soft small">{escape(note)}</p>'


def _differences(found: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            *("{mean:+.3f} ± {sd:.3f} ({wins})".format(**arm["difference"][m]) for m in MEASURES),
        ]
        for name, arm in list(found["arms"].items())[1:]
    ]
    note = (
        "Run by run, the same seed on both sides; in brackets, in how many of "
        f"{found['seeds']} seeds it is better. With so few seeds and one set of test videos, a "
        "difference within its spread says nothing."
    )
    return table(["", *MEASURES.values()], rows) + f'<p class="soft small">{escape(note)}</p>'


def _filter(found: Mapping[str, Any]) -> str:
    counts = found["filter"]
    rows = [["kept", counts["kept"]], ["dropped", counts["dropped"]]]
    rows += [[f"dropped: {reason}", count] for reason, count in counts["reasons"].items()]
    parts = [
        table(["generated clips", "number"], rows),
        '<p class="soft small">A clip may be dropped for more than one reason. As many of each '
        "label are dropped at random in the control arm, another draw each seed.</p>",
    ]
    if found["caught"]:
        planted = [[name, *of] for name, of in found["caught"].items()]
        parts.append(table(["what the world planted", "dropped", "of"], planted))
        parts.append(
            '<p class="soft small">The filter never sees what was planted. “twin” clips show the '
            "other event than described; pixels alone can’t tell.</p>"
        )
    return "\n".join(parts)


def _curves(curves: Sequence[Mapping[str, Any]]) -> str:
    if not curves:
        return "<p>No test video.</p>"
    keys = "".join(
        f'<span class="key" style="background: var(--arm{i})"></span>{escape(arm)}'
        for i, arm in enumerate(curves[0]["scores"])
    )
    legend = f'<p>{keys}<span class="key truth"></span>abnormal in truth</p>'
    return legend + "\n".join(_video(curve) for curve in curves)


def _video(curve: Mapping[str, Any]) -> str:
    kind = "abnormal" if curve["label"] else "normal"
    pictures = "".join(
        f'<figure><img alt="frame {frame}" src="{picture(image)}"/>'
        f"<figcaption>{frame / curve['fps']:.1f} s</figcaption></figure>"
        for frame, image in curve["pictures"]
    )
    title = f"<h3>{escape(curve['id'])} <span class='soft'>({kind})</span></h3>"
    return f'<div class="video">{title}{_plot(curve)}{pictures}</div>'


def _plot(curve: Mapping[str, Any]) -> str:
    """Score against seconds; the true intervals are shaded."""
    width, height = _PLOT
    num_frames = max(len(scores) for scores in curve["scores"].values())

    def x(frame: float) -> float:
        return _LEFT + frame / max(num_frames, 1) * (width - _LEFT)

    def y(score: float) -> float:
        return 4 + (1 - float(np.clip(score, 0, 1))) * (height - 4)

    parts = [
        f'<rect x="{x(start):.1f}" y="4" width="{x(end) - x(start):.1f}" height="{height - 4}" '
        'fill="var(--truth)"/>'
        for start, end in curve["intervals"]
    ]
    for score in (0, 0.5, 1):
        parts.append(
            f'<line x1="{_LEFT}" x2="{width}" y1="{y(score):.1f}" y2="{y(score):.1f}" '
            'stroke="var(--line)"/>'
            f'<text x="{_LEFT - 6}" y="{y(score) + 4:.1f}" text-anchor="end">{score:g}</text>'
        )
    seconds = num_frames / curve["fps"]
    for tick in np.arange(0, seconds, 5 if seconds > 8 else 1):
        place = x(tick * curve["fps"])
        parts.append(f'<text x="{place:.1f}" y="{height + 14}">{tick:g} s</text>')
    for i, scores in enumerate(curve["scores"].values()):
        points = " ".join(f"{x(f + 0.5):.1f},{y(s):.1f}" for f, s in enumerate(scores))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="var(--arm{i})" stroke-width="2"/>'
        )
    label = escape(f"scores of {curve['id']} over time")
    box = f"0 0 {width} {height + _BOTTOM}"
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _provenance(found: Mapping[str, Any]) -> str:
    data = "\n".join(f"--{k}={v}" for k, v in found["plan"].items() if v not in (None, ""))
    # Stores, folders and seed are the run's own.
    own = ("--store=", "--synthetic_", "--workdir=", "--seed=", "--annotations=")
    train = "\n".join(line for line in found["flags"].splitlines() if not line.startswith(own))
    seeds = ", ".join(str(seed) for seed in range(found["seeds"]))
    return "\n".join(
        (
            "<pre>python -m tools.demo --flagfile=configs/demo.flags --out=DIR</pre>",
            f"<p>Data seed {escape(found['plan'].get('data_seed'))}; training seeds {seeds}.</p>",
            f"<details><summary>Flags of the data</summary><pre>{escape(data)}</pre></details>",
            f"<details><summary>Flags of training</summary><pre>{escape(train)}</pre></details>",
            "<details><summary>Code, versions, hashes</summary><pre>"
            f"{escape(json.dumps(found['provenance'], indent=1))}</pre></details>",
        )
    )
