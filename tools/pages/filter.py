"""The filter's page: its decisions, histograms of its scores, and pictures of some videos."""

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from tools.pages.rendering import points, render

if TYPE_CHECKING:
    from generation.filter.decisions import Decision

# Width and height of a histogram, and the margin for its labels, in SVG units.
_WIDTH, _HEIGHT, _BOTTOM = 460, 110, 18
_BINS = 40
# Name and colour of each series.
_SERIES = {
    "real": ("real training videos", "var(--ink)"),
    "kept": ("kept videos", "var(--arm1)"),
    "dropped": ("dropped videos", "var(--arm0)"),
}
_PICTURE_WIDTH = 150

# (seconds, RGB uint8 [H, W, 3]) pairs by video id, in the order of the page.
Pictures = Mapping[str, Sequence[tuple[float, np.ndarray]]]
# (bound, reason) pairs of a score.
Bounds = Sequence[tuple[float, str]]


def page(
    decisions: "Sequence[Decision]",
    thresholds: Mapping[str, Any],
    pictures: Pictures,
    descriptions: Mapping[str, str],
) -> str:
    """Renders the filter's decisions as HTML.

    Args:
      decisions: the decisions.
      thresholds: content of the file beside them: options, rules, real, not_judged.
      pictures: pictures of the videos to show.
      descriptions: descriptions by video id.
    """
    options = thresholds.get("options", {})
    by_id = {decision.id: decision for decision in decisions}
    return render(
        "filter.html",
        kept=sum(decision.keep for decision in decisions),
        total=len(decisions),
        options=", ".join(f"{key} {value}" for key, value in options.items() if value is not None),
        reals=max(map(len, thresholds["real"].values()), default=0),
        not_judged=thresholds["not_judged"],
        reasons=_reason_rows(decisions),
        series=list(_SERIES.values()),
        plots=histograms(decisions, thresholds),
        videos=[
            _video(by_id[video_id], frames, descriptions.get(video_id, ""))
            for video_id, frames in pictures.items()
        ],
    )


def _reason_rows(decisions: "Sequence[Decision]") -> list[list[str | int]]:
    """Number of normal, abnormal and all videos, kept and dropped by each reason."""
    reasons = sorted({reason for decision in decisions for reason in decision.reasons})

    def row(name: str, counts: "Callable[[Decision], bool]") -> list[str | int]:
        numbers = [sum(counts(d) for d in decisions if d.label == label) for label in (0, 1)]
        return [name, *numbers, sum(numbers)]

    return [
        row("kept", lambda d: d.keep),
        row("dropped", lambda d: not d.keep),
        *(row(f"dropped: {reason}", lambda d, r=reason: r in d.reasons) for reason in reasons),
    ]


def histograms(
    decisions: "Sequence[Decision]", thresholds: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Coordinates of a histogram of each score, see `histogram`."""
    names = sorted({name for decision in decisions for name in decision.scores})
    bounds: dict[str, list[tuple[float, str]]] = {}
    for rule in thresholds.get("rules", ()):
        for name, pair in rule["bounds"].items():
            lines = bounds.setdefault(name, [])
            lines += [(bound, rule["reason"]) for bound in pair if bound is not None]

    def scores(name: str, keep: bool) -> list[float]:
        return [d.scores[name] for d in decisions if d.keep == keep and name in d.scores]

    return [
        histogram(
            name,
            {
                "real": thresholds["real"].get(name, ()),
                "kept": scores(name, True),
                "dropped": scores(name, False),
            },
            bounds.get(name, ()),
        )
        for name in names
    ]


def histogram(name: str, series: Mapping[str, Sequence[float]], bounds: Bounds) -> dict[str, Any]:
    """Coordinates of a histogram.

    Args:
      name: name of the score.
      series: its values by the names in _SERIES; those that aren't finite are left out.
      bounds: bounds to draw, with their reasons.
    """
    finite = {key: np.array([v for v in values if math.isfinite(v)])
              for key, values in series.items()}  # fmt: skip
    limits = [bound for bound, _ in bounds]
    values = np.concatenate([*finite.values(), limits])
    low, high = np.quantile(values, (0.01, 0.99)) if len(values) else (0.0, 1.0)
    low, high = min([low, *limits]), max([high, *limits])
    # Sizes that spread over orders of magnitude are drawn by their logarithm.
    logarithmic = low > 0 and high > 30 * low

    def scale(values: npt.ArrayLike) -> np.ndarray:
        return np.log(np.maximum(values, low)) if logarithmic else np.asarray(values, float)

    left, right = scale([low, high])
    right = right if right > left else left + 1

    def x(value: float) -> float:
        return float(np.clip((scale(value) - left) / (right - left), 0, 1)) * _WIDTH

    shares = {}
    for key, values in finite.items():
        if len(values):
            place = np.clip((scale(values) - left) / (right - left) * _BINS, 0, _BINS - 1)
            shares[key] = np.bincount(place.astype(int), minlength=_BINS) / len(values)
    top = max((share.max() for share in shares.values()), default=1.0)
    edges = np.repeat(np.linspace(0, _WIDTH, _BINS + 1), 2)[1:-1]

    def levels(share_B: np.ndarray) -> np.ndarray:
        # The square root shows a few videos far outside, which are the interesting ones.
        return _HEIGHT - np.repeat(np.sqrt(share_B / top), 2) * (_HEIGHT - 14)

    return {
        "name": name,
        "width": _WIDTH,
        "height": _HEIGHT,
        "bottom": _BOTTOM,
        "curves": [
            (points(zip(edges, levels(share_B), strict=True)), _SERIES[key][1])
            for key, share_B in shares.items()
        ],
        "bounds": [
            (reason, f"{x(bound):.1f}", "end" if x(bound) > _WIDTH / 2 else "start")
            for bound, reason in sorted(set(bounds))
        ],
        "ends": [(f"{value:.4g}", f"{x(value):.1f}", anchor)
                 for value, anchor in ((low, "start"), (high, "end"))],
    }  # fmt: skip


def _video(
    decision: "Decision", frames: Sequence[tuple[float, np.ndarray]], description: str
) -> dict[str, Any]:
    verdict = "kept" if decision.keep else "dropped: " + ", ".join(decision.reasons)
    if decision.badness is not None:
        verdict += f" ({decision.badness:+.2f} doublings beyond the nearest bound)"
    return {
        "id": decision.id,
        "kind": {0: "normal", 1: "abnormal"}.get(decision.label, "no label"),
        "verdict": verdict,
        "pictures": [(f"{seconds:.1f}", image) for seconds, image in frames],
        "description": description,
    }


def choose(decisions: "Sequence[Decision]", count: int) -> list[str]:
    """Chooses videos to show: half of them dropped, each reason in turn, worst first; half kept.

    Kept videos nearest to a bound come first, because those are the doubtful ones.

    Returns:
      Their ids.
    """
    dropped = [d for d in decisions if not d.keep]
    by_reason: dict[str, list[str]] = {}
    for decision in sorted(dropped, key=lambda d: (-(d.badness or 0.0), d.id)):
        for reason in decision.reasons[:1]:
            by_reason.setdefault(reason, []).append(decision.id)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_reason.values()))
    kept = sorted((d for d in decisions if d.keep), key=lambda d: (-(d.badness or 0.0), d.id))
    shown = [video_id for video_id in turns if video_id is not None][
        : max(count // 2, count - len(kept))
    ]
    return shown + [d.id for d in kept][: count - len(shown)]


def read_pictures(
    videos: annotations.Annotations, video_ids: Sequence[str]
) -> dict[str, list[tuple[float, np.ndarray]]]:
    """Reads three small frames of each video, with their times in seconds.

    Videos that are missing or can't be read are left out, with a warning.
    """
    import cv2

    from generation.media import reading

    pictures: dict[str, list[tuple[float, np.ndarray]]] = {}
    for video_id in video_ids:
        if video_id not in videos.videos:
            continue
        video = videos.videos[video_id]
        try:
            reader = reading.Reader(videos.resolve(video), fps=video.fps)
            last = max(reader.num_frames - 1, 0)
            wanted = sorted({round(share * last) for share in (0.1, 0.5, 0.9)})
            frames = [(number, picture.rgb()) for number, picture in reader.frames(wanted)]
        except UserError as error:
            print(f"warning: {video_id}: no pictures: {error}", file=sys.stderr)
            continue
        fps = reader.fps or 1.0
        for number, frame_HxWx3 in frames:
            height, width = frame_HxWx3.shape[:2]
            size = (_PICTURE_WIDTH, max(1, round(height * _PICTURE_WIDTH / width)))
            small = cv2.resize(frame_HxWx3, size, interpolation=cv2.INTER_AREA)
            pictures.setdefault(video_id, []).append((number / fps, small))
    return pictures
