"""The model card of a shared detector: README.md with the metadata that the Hugging Face Hub reads.

What isn't known is said to be unknown; nothing is guessed.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gvvad_jax.calibration import Calibration
from gvvad_jax.config import TrainConfig
from gvvad_jax.store.format import Manifest

TITLES = {
    "lap": "LAP",
    "rtfm": "RTFM",
    "tevad": "TEVAD",
    "ur_dmu": "UR-DMU",
    "mil_rank": "MIL-Rank",
}
_MEASURES = {
    "auc": "frame AUC",
    "ap": "frame AP",
    "auc_abnormal": "frame AUC, abnormal videos only",
    "far": "false alarm rate of frames",
    "video_auc": "video AUC",
    "video_ap": "video AP",
    "alarms_per_hour": "alarms an hour of normal test videos at the threshold",
}
# The other measures of a run may name videos or paths.
_SHARED = (
    *_MEASURES,
    "videos",
    "frames",
    "normal_hours",
    "far_threshold",
    "per_class",
    "alignment",
)
_INTRODUCTION = """\
# {title}, a video anomaly detector

Trained on weak labels, one for each video, and run by the Python package `gvvad-jax` (GV-VAD in
JAX). It scores each snippet of a video; higher is more unusual."""
_LOADING = """\
## How to load it

```python
import gvvad_jax as gv

model = gv.load("{name}")
scores = model.score({{"my video": features}})  # float32 [T]
```

`gvvad watch`, `score`, `evaluate` and `export` take `--workdir={name}`."""
_LIMITS = """\
A score says how unlike the normal videos of its training a few frames are, in the features of one
encoder. It doesn't say that a crime or any harm happened, who did what, or what somebody intends.

- Take it as a hint for a person who looks at the footage, never as the sole ground of a decision
  about anybody. No measure here was taken of such decisions.
- Measures hold for the videos they were taken on. Another camera, place, light, frame rate or
  compression changes scores and false alarms; set the threshold on normal footage of the camera.
- What is rare in the training videos scores high, whether it is dangerous or not: unusual clothes,
  wheelchairs, crowds or customs may be among it. Check false alarms by who is in the picture.
- Watching people is bound by law in most places (in the European Union the GDPR and the AI Act).
  Whoever runs a camera answers for its lawfulness, for notices, and for how long footage is kept.
- Features and weights may inherit the conditions of the videos and of the encoder that they come
  from; the licence above is what the author of this card states."""


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a card says beyond the settings.

    Attributes:
      license: identifier of the licence, as the author gave it.
      data: the author's description of the training data and its licence; empty for none.
      checkpoint: which checkpoint of the run it is.
      step: its step; None where it isn't known.
      measures: of `shared_measures`; None where none were taken.
      provenance: commit, versions of libraries, and digests of the stores of training.
    """

    license: str
    data: str = ""
    checkpoint: str = "last"
    step: int | None = None
    measures: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None


def shared_measures(measures: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns those measures that name no video and no path."""
    if measures is None:
        return None
    shared = {name: measures[name] for name in _SHARED if measures.get(name) is not None}
    if intervals := measures.get("intervals"):
        names = ("draws", "units", "level", *_MEASURES)
        shared["intervals"] = {name: intervals[name] for name in names if name in intervals}
    return shared


def render(
    config: TrainConfig,
    manifest: Manifest,
    calibration: Calibration | None,
    facts: Facts,
    name: str = "",
) -> str:
    """Writes the card.

    Args:
      config: the settings of the training.
      manifest: of the features that the detector takes.
      calibration: its threshold, if any.
      facts: what the author and the run say.
      name: what gv.load takes; empty for the folder of the card.
    """
    sections = [
        _front_matter(config, facts),
        _INTRODUCTION.format(title=TITLES.get(config.detector, config.detector)),
        _LOADING.format(name=name or "FOLDER"),
        "## Features\n\n" + "\n".join(_features(config, manifest)),
        "## Training data\n\n" + "\n".join(_data(config, facts)),
        "## Measures\n\n" + "\n".join(_measures(facts.measures)),
        "## Threshold\n\n" + _threshold(calibration),
        "## Limits\n\n" + _LIMITS,
        f"## Licence\n\n`{facts.license}`, as stated by the author.",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(config: TrainConfig, facts: Facts) -> str:
    tags = ["video-anomaly-detection", "weakly-supervised", config.detector]
    lines = [f"license: {facts.license}", "library_name: gvvad-jax", "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---"])


def _features(config: TrainConfig, manifest: Manifest) -> Iterator[str]:
    encoder, crops, snippet = manifest.encoder, manifest.crops, manifest.snippet
    yield f"- encoder: {_text(encoder['id'])}, weights {_text(encoder.get('weights', 'unknown'))}"
    yield f"- visual rows: `[T, {crops['count']}, {manifest.dim}]` (snippets, crops, dim)"
    yield (
        f"- snippets of {snippet.get('frames', 'unknown')} frames, one every "
        f"{snippet.get('stride', 'unknown')}, frame rate {manifest.fps_policy}"
    )
    if config.uses_text and manifest.text:
        text = manifest.text
        captioner = _text(text.get("captioner") or "unknown")
        yield f"- text rows: `[T, {text['dim']}]` of {_text(text['encoder'])}, captions {captioner}"
    else:
        yield "- no text"


def _data(config: TrainConfig, facts: Facts) -> Iterator[str]:
    yield facts.data or "The author of this card hasn't described the training data."
    yield ""
    yield f"{facts.checkpoint} checkpoint" + (f", step {facts.step}" if facts.step else "") + "."
    provenance = facts.provenance or {}
    if stores := provenance.get("stores"):
        yield "Stores of real videos, by digest: " + ", ".join(f"`{s[:12]}`" for s in stores) + "."
    if store := provenance.get("synthetic_store"):
        yield f"Generated videos were trained on too, the store with digest `{str(store)[:12]}`."
    if config.best_on_test and facts.checkpoint == "best_on_test":
        yield "This checkpoint was chosen on the test videos: its measures aren't a result."


def _measures(measures: Mapping[str, Any] | None) -> Iterator[str]:
    if not measures or not any(name in measures for name in _MEASURES):
        yield "None were taken."
        return
    intervals = measures.get("intervals") or {}
    if intervals:
        share = f"{100 * intervals.get('level', 0.95):.0f} %"
        yield f"| measure | value | {share} interval |\n|---|---|---|"
    else:
        yield "| measure | value |\n|---|---|"
    for name, label in _MEASURES.items():
        if name not in measures:
            continue
        row = f"| {label} | {measures[name]:.4g} |"
        if intervals:
            low_high = intervals.get(name)
            row += f" {low_high[0]:.4g} to {low_high[1]:.4g} |" if low_high else " not known |"
        yield row
    yield ""
    yield f"On {measures.get('videos')} test videos, {measures.get('frames')} frames."
    if intervals:
        yield f"Intervals: bootstrap, {intervals['draws']} draws of {intervals['units']} groups."
    else:
        yield "No intervals were computed."


def _threshold(calibration: Calibration | None) -> str:
    threshold = calibration and calibration.threshold
    if not threshold or threshold.threshold is None:
        return "None is set. Set one on normal footage of the camera (`gvvad calibrate`)."
    return (
        f"{threshold.threshold:.6g}, set on {threshold.hours:.3g} hours of normal footage "
        f"({threshold.videos} videos), which support {threshold.alarms_per_hour:.3g} alarms an "
        "hour. Another camera needs its own (`gvvad calibrate`)."
    )


def _text(value: object) -> str:
    """A value as code: what a manifest says can't become Markdown or HTML of the card."""
    return "`" + json.dumps(str(value), ensure_ascii=False)[1:-1].replace("`", "'") + "`"
