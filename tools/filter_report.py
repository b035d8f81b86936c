"""The filter's decisions as one HTML page, readable without a network.

    python -m tools.filter_report --decisions=decisions.jsonl --videos=GENERATED/videos.json \\
        --prompts=prompts.jsonl --out=filter.html

Counts by label and reason; of each score a histogram of real training videos, kept and dropped
clips with the bounds drawn in; and pictures of some clips with the reasons and the description.
Without --videos there are no pictures, without --prompts no descriptions.
"""

import itertools
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store import annotations
from gvvad_jax.store.files import read_json, write_atomically
from tools.html_page import document, escape, picture, table

_PLOT = (460, 110)  # width, height of a histogram in SVG units
_BOTTOM = 18
_BINS = 40
_SERIES = {"real": "real training videos", "kept": "kept clips", "dropped": "dropped clips"}
_COLOURS = {"real": "var(--ink)", "kept": "var(--arm1)", "dropped": "var(--arm0)"}
_PICTURE_WIDTH = 150

_STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
.plots figure { margin: 0; } .plots svg { width: 100%; height: auto; }
.plots figcaption { font-weight: 600; }
.clip { margin: 1.2rem 0; } .clip h3 { margin: 0; font-size: 1rem; font-weight: 600; }
.clip img { width: 150px; margin-right: .3rem; border-radius: .3rem; }
.clip p { margin: .2rem 0; overflow-wrap: anywhere; }
"""

Pictures = Mapping[str, Sequence[tuple[float, np.ndarray]]]


def page(
    decisions: Sequence[Any],
    thresholds: Mapping[str, Any],
    pictures: Pictures,
    descriptions: Mapping[str, str],
) -> str:
    """The page.

    Args:
      decisions: generation.decisions' Decisions.
      thresholds: what lies beside them: options, rules, real, not_judged.
      pictures: (seconds, RGB uint8 [H, W, 3]) of some clips, in the order of the page.
      descriptions: by clip id.

    Returns:
      HTML. Every text in it is escaped.
    """
    sections = [
        "<h1>What the filter kept and dropped</h1>",
        _introduction(decisions, thresholds),
        "<h2>Reasons</h2>",
        _reasons(decisions),
        "<h2>Scores</h2>",
        _histograms(decisions, thresholds),
        "<h2>Clips</h2>",
        _clips(decisions, pictures, descriptions),
    ]
    return document("GV-VAD filter", sections, _STYLE)


def _introduction(decisions, thresholds) -> str:
    kept = sum(decision.keep for decision in decisions)
    options = thresholds.get("options", {})
    told = ", ".join(f"{key} {value}" for key, value in options.items() if value is not None)
    reals = max(map(len, thresholds["real"].values()), default=0)
    parts = [
        f"<p>{kept} of {len(decisions)} clips kept ({escape(told)}), compared with {reals} "
        "real training videos. A clip may be dropped for more than one reason.</p>"
    ]
    if thresholds["not_judged"]:
        lines = "".join(
            f"<li>{escape(score)}: {escape(why)}</li>"
            for score, why in thresholds["not_judged"].items()
        )
        parts.append(f'<div class="warn"><strong>Not judged</strong><ul>{lines}</ul></div>')
    return "\n".join(parts)


def _reasons(decisions) -> str:
    labels = {"normal": 0, "abnormal": 1}
    reasons = sorted({reason for decision in decisions for reason in decision.reasons})

    def row(name, counts) -> list[str]:
        chosen = [
            sum(counts(d) for d in decisions if d.label == label) for label in labels.values()
        ]
        return [name, *map(str, chosen), str(sum(chosen))]

    rows = [
        row("kept", lambda d: d.keep),
        row("dropped", lambda d: not d.keep),
        *(row(f"dropped: {reason}", lambda d, r=reason: r in d.reasons) for reason in reasons),
    ]
    return table(["clips", *labels, "all"], rows)


def _histograms(decisions, thresholds) -> str:
    names = sorted({name for decision in decisions for name in decision.scores})
    keys = "".join(
        f'<span class="key" style="background: {_COLOURS[series]}"></span>{label}'
        for series, label in _SERIES.items()
    )
    bounds: dict[str, list[tuple[float, str]]] = {}
    for rule in thresholds.get("rules", ()):
        for name, pair in rule["bounds"].items():
            lines = bounds.setdefault(name, [])
            lines += [(bound, rule["reason"]) for bound in pair if bound is not None]
    plots = []
    for name in names:
        of = {
            "real": thresholds["real"].get(name, ()),
            "kept": [d.scores[name] for d in decisions if d.keep and name in d.scores],
            "dropped": [d.scores[name] for d in decisions if not d.keep and name in d.scores],
        }
        svg = _histogram(name, of, bounds.get(name, ()))
        plots.append(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>")
    note = (
        "Shares of each series, drawn by their square roots; what lies outside is counted in the "
        "outermost bins. Dashed: bounds, with the reason that a clip beyond one is dropped for "
        "(cut: beyond both of its two)."
    )
    return f'<p>{keys}</p><p class="soft small">{note}</p><div class="plots">{"".join(plots)}</div>'


def _histogram(name: str, series: Mapping[str, Sequence[float]], bounds) -> str:
    width, height = _PLOT
    finite = {key: np.array([v for v in of if math.isfinite(v)]) for key, of in series.items()}
    every = np.concatenate([*finite.values(), [bound for bound, _ in bounds]])
    low, high = np.quantile(every, (0.01, 0.99)) if len(every) else (0.0, 1.0)
    low, high = (min([low, *(b for b, _ in bounds)]), max([high, *(b for b, _ in bounds)]))
    # Sizes spread over orders of magnitude are drawn by their logarithm.
    logarithmic = low > 0 and high > 30 * low

    def scale(values) -> np.ndarray:
        return np.log(np.maximum(values, low)) if logarithmic else np.asarray(values, float)

    left, right = scale([low, high])
    right = right if right > left else left + 1

    def x(value: float) -> float:
        return float(np.clip((scale(value) - left) / (right - left), 0, 1)) * width

    parts = []
    shares = {}
    for key, values in finite.items():
        if len(values):
            place = np.clip((scale(values) - left) / (right - left) * _BINS, 0, _BINS - 1)
            shares[key] = np.bincount(place.astype(int), minlength=_BINS) / len(values)
    top = max((share.max() for share in shares.values()), default=1.0)
    for key, share_B in shares.items():
        edges = np.repeat(np.linspace(0, width, _BINS + 1), 2)[1:-1]
        # A square root: a few clips far outside are what one looks for.
        levels = height - np.repeat(np.sqrt(share_B / top), 2) * (height - 14)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(edges, levels, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_COLOURS[key]}" stroke-width="1.5"/>'
        )
    for bound, reason in sorted(set(bounds)):
        place = x(bound)
        anchor = "end" if place > width / 2 else "start"
        parts.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="12" y2="{height}" stroke="var(--ink)" '
            'stroke-dasharray="3 3"/>'
            f'<text x="{place:.1f}" y="9" text-anchor="{anchor}">{escape(reason)}</text>'
        )
    for value, anchor in ((low, "start"), (high, "end")):
        parts.append(
            f'<text x="{x(value):.1f}" y="{height + 14}" text-anchor="{anchor}">{value:.4g}</text>'
        )
    box = f"0 0 {width} {height + _BOTTOM}"
    label = escape(f"histogram of {name}")
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _clips(decisions, pictures: Pictures, descriptions) -> str:
    by_id = {decision.id: decision for decision in decisions}
    if not pictures:
        return "<p>No pictures: --videos wasn't given, or none of its files can be read.</p>"
    parts = []
    for clip, frames in pictures.items():
        decision = by_id[clip]
        verdict = "kept" if decision.keep else "dropped: " + ", ".join(decision.reasons)
        if decision.badness is not None:
            verdict += f" ({decision.badness:+.2f} doublings beyond the nearest bound)"
        images = "".join(
            f'<img alt="at {seconds:.1f} s" src="{picture(image)}"/>' for seconds, image in frames
        )
        kind = {0: "normal", 1: "abnormal"}.get(decision.label, "no label")
        parts.append(
            f"<div class='clip'><h3>{escape(clip)} <span class='soft'>({kind})</span></h3>"
            f"<p>{escape(verdict)}</p>{images}"
            f"<p class='soft small'>{escape(descriptions.get(clip, ''))}</p></div>"
        )
    return "\n".join(parts)


def choose(decisions: Sequence[Any], count: int) -> list[str]:
    """Ids of clips to show: half of them dropped, each reason in turn, worst first; half kept.

    Of the kept ones, those nearest to a bound come first: there one disagrees, if anywhere.
    """
    dropped = [d for d in decisions if not d.keep]
    by_reason: dict[str, list[str]] = {}
    for decision in sorted(dropped, key=lambda d: (-(d.badness or 0.0), d.id)):
        for reason in decision.reasons[:1]:
            by_reason.setdefault(reason, []).append(decision.id)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_reason.values()))
    kept = sorted((d for d in decisions if d.keep), key=lambda d: (-(d.badness or 0.0), d.id))
    shown = [clip for clip in turns if clip is not None][: max(count // 2, count - len(kept))]
    return shown + [d.id for d in kept][: count - len(shown)]


def read_pictures(
    videos: annotations.Annotations, clips: Sequence[str]
) -> dict[str, list[tuple[float, np.ndarray]]]:
    """Three small frames of each clip, with their times; clips that can't be read are left out."""
    import cv2

    from generation.media import reading

    pictures = {}
    for clip in clips:
        if clip not in videos.videos:
            continue
        video = videos.videos[clip]
        try:
            reader = reading.Reader(videos.resolve(video))
            last = max(reader.num_frames - 1, 0)
            wanted = sorted({round(share * last) for share in (0.1, 0.5, 0.9)})
            frames = list(reader.frames(wanted))
        except UserError as error:
            print(f"warning: {clip}: no pictures: {error}", file=sys.stderr)
            continue
        fps = reader.fps or video.fps or 1.0
        for number, frame_HxWx3 in frames:
            height, width = frame_HxWx3.shape[:2]
            size = (_PICTURE_WIDTH, max(1, round(height * _PICTURE_WIDTH / width)))
            small = cv2.resize(frame_HxWx3, size, interpolation=cv2.INTER_AREA)
            pictures.setdefault(clip, []).append((number / fps, small))
    return pictures


def main(_) -> None:
    if not _DECISIONS.value or not _OUT.value:
        raise UserError(
            "--decisions, --out: expected decisions.jsonl and a page to write; give both"
        )
    from generation.filter.decisions import load_decisions, thresholds_path
    from generation.prompts.descriptions import load_descriptions

    decisions, evidence = load_decisions(_DECISIONS.value)
    thresholds = read_json(thresholds_path(_DECISIONS.value))
    descriptions, pictures = {}, {}
    if _PROMPTS.value:
        descriptions = {d.id: d.description for d in load_descriptions(_PROMPTS.value)}
    if _VIDEOS.value:
        videos = annotations.load(_VIDEOS.value)
        pictures = read_pictures(videos, choose(decisions, _CLIPS.value))
    content = page(decisions, thresholds, pictures, descriptions)
    pathlib.Path(_OUT.value).resolve().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_OUT.value, content.encode())
    print(json.dumps({"out": _OUT.value, "clips": len(evidence.scores), "shown": len(pictures)}))


if __name__ == "__main__":
    _DECISIONS = flags.DEFINE_string("decisions", None, "The filter's decisions.jsonl.")
    _VIDEOS = flags.DEFINE_string("videos", None, "videos.json of the clips, for pictures.")
    _PROMPTS = flags.DEFINE_string("prompts", None, "prompts.jsonl, for descriptions.")
    _CLIPS = flags.DEFINE_integer("clips", 40, "Clips to show pictures of, at most.", 0)
    _OUT = flags.DEFINE_string("out", None, "HTML file to write.")
    run_command(main, usage=__doc__)
