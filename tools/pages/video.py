"""The page of one scored video: player, score curve, events, and a slider for the threshold."""

import base64
import decimal
import json
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gvvad_jax.events import three_digits
from tools.pages import player
from tools.pages.rendering import render

if TYPE_CHECKING:
    from tools.watching.scoring import Scores
    from tools.watching.thumbnails import Thumbnail

# A video up to this size is inside the page; a larger one lies beside it.
EMBEDDED_BYTES = 8 << 20


def page(
    content: Mapping[str, Any],
    scores: "Scores",
    thumbnails: "Sequence[Thumbnail]",
    played: tuple[pathlib.Path, str],
) -> tuple[str, bool]:
    """Renders the page of a video.

    Args:
      content: the content of its JSON, see tools.watching.files.
      scores: its scores.
      thumbnails: the picture of each event.
      played: a file that browsers play, in the folder beside the page, and its type.

    Returns:
      (the page, whether the video is inside it).
    """
    path, kind = played
    embedded = path.stat().st_size <= EMBEDDED_BYTES
    if embedded:
        source = f"data:{kind};base64,{_base64(path.read_bytes())}"
    else:
        source = urllib.parse.quote(f"{path.parent.name}/{path.name}")
    names = sorted(set(scores.classes or ()))
    number = {name: index for index, name in enumerate(names)}
    times_Tx2, facts = scores.facts.times_Tx2, scores.facts
    events = [
        _row(event, caption, picture, scores)
        for event, caption, picture in zip(
            content["events"], content["captions"], thumbnails, strict=True
        )
    ]
    plot = player.plot(
        seconds=facts.seconds,
        intervals=[tuple(span) for span in content["truth"] or ()],
        curves=[(times_Tx2.mean(axis=1), scores.scores_T)],
        thresholds=[content["rule"]["threshold"]],
        lanes=[[(event["start"], event["end"]) for event in content["events"]]],
    )
    low, high = _range(scores.scores_T, content["rule"]["threshold"])
    text = render(
        "video.html",
        content=content,
        plot=plot | {"id": content["video"]},
        source=source,
        facts=_facts(content, embedded),
        events=events,
        low=low,
        high=high,
        rule=json.dumps(content["rule"]),
        names=json.dumps(names),
        scores=_base64(np.asarray(scores.scores_T, "<f4").tobytes()),
        starts=_base64(np.asarray(times_Tx2[:, 0], "<f8").tobytes()),
        ends=_base64(np.asarray(times_Tx2[:, 1], "<f8").tobytes()),
        classes=_base64(np.array([number[c] for c in scores.classes or ()], "<u2").tobytes()),
    )
    return text, embedded


def _row(
    event: Mapping[str, Any], caption: str | None, picture: "Thumbnail", scores: "Scores"
) -> dict[str, Any]:
    """Values of an event's row; `at` is the snippet of its peak, by which the script knows it."""
    middles_T = scores.facts.times_Tx2.mean(axis=1)
    strongest = f", the strongest {picture.cells[0][2]:.1f} deviations" if picture.cells else ""
    cells = f"{len(picture.cells)} of {picture.grid[0] * picture.grid[1]} cells marked"
    return {
        "at": int(np.argmin(np.abs(middles_T - event["peak_time"]))),
        # As JavaScript writes them.
        "exact_start": _as_script(event["start"]),
        "exact_end": _as_script(event["end"]),
        "start": clock(event["start"]),
        "end": clock(event["end"]),
        "peak": f"{event['peak']:.3f}",
        "peak_at": clock(event["peak_time"]),
        "mean": f"{event['mean']:.3f}",
        "cls": event["class"] or "–",
        "caption": caption or "",
        "picture": f"data:image/jpeg;base64,{_base64(picture.jpeg)}",
        "alt": f"the video at {clock(event['peak_time'])}, {cells}{strongest}",
    }


def _as_script(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)


def _range(scores_T: np.ndarray, threshold: float) -> tuple[float, float]:
    """The ends of the slider: all scores and the threshold."""
    return min(float(scores_T.min()), threshold), max(float(scores_T.max()), threshold)


def _facts(content: Mapping[str, Any], embedded: bool) -> list[tuple[str, str]]:
    """What stands beside the video: names and values."""
    threshold = content["threshold"]
    said = f"{content['rule']['threshold']:.3f}"
    if threshold["alarms_per_hour"] is not None:
        rate, hours = map(three_digits, (threshold["alarms_per_hour"], threshold["hours"]))
        said += (
            f", for {rate} alarms an hour on {hours} hours of normal footage "
            f"({threshold['videos']} videos)"
        )
    if threshold["reason"]:
        said += f"; {threshold['reason']}"
    facts = [
        ("file", content["file"]),
        ("length", f"{clock(content['seconds'])}, {content['fps']:g} frames a second"),
        ("detector", f"{content['detector']} on {content['encoder']}"),
        ("threshold", said),
    ]
    if content["chance"] is not None:
        facts.append(("chance that it is abnormal", f"{content['chance']:.2f}"))
    if content["part_snippets"]:
        facts.append(("scored in parts", f"of {content['part_snippets']} snippets, overlapping"))
    facts += [("fault", fault) for fault in content["faults"]]
    if not embedded:
        facts.append(("video", f"keep {content['video']}.files beside this page"))
    return facts


def clock(second: float) -> str:
    """Returns a time as m:ss.t, or h:mm:ss.t."""
    # Rounded as the script does: 59.96 is 1:00.0, and 0.25 is 0:00.3.
    rounded = decimal.Decimal(second).quantize(decimal.Decimal("0.1"), decimal.ROUND_HALF_UP)
    whole, tenth = str(rounded).split(".")
    minutes, rest = divmod(int(whole), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}:{minutes:02d}' if hours else minutes}:{rest:02d}.{tenth}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
