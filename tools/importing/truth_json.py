"""Temporal labels as ActivityNet and FiftyOne have them, in and out."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from gvvad_jax.command import UserError
from gvvad_jax.store import alignment
from gvvad_jax.store.annotations import Annotations, VideoAnnotation
from gvvad_jax.store.files import Json, read_json_as
from tools.importing.truth_entries import TruthEntry, merge

_SUBSETS = {
    **{"training": "train", "train": "train", "validation": "validation", "val": "validation"},
    **{"testing": "test", "test": "test"},
}
_SUBSET_NAMES = {"train": "training", "validation": "validation", "test": "testing"}
_Frames = Annotated[int, msgspec.Meta(gt=0, le=alignment.MOST_FRAMES)]
_Rate = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e7)]


class _Segment(msgspec.Struct, frozen=True):
    segment: tuple[_Seconds, _Seconds]
    label: str = ""


class _Video(msgspec.Struct, frozen=True, rename={"cls": "class"}):
    """An entry of ActivityNet; the last five keys are written here, and read where present."""

    annotations: list[_Segment] = []
    subset: str | None = None
    duration: _Seconds | None = None
    fps: _Rate | None = None
    num_frames: _Frames | None = None
    label: Annotated[int, msgspec.Meta(ge=0, le=1)] | None = None
    cls: str | None = None
    file: str | None = None


class _ActivityNet(msgspec.Struct, frozen=True):
    database: dict[str, _Video]


class _Detection(msgspec.Struct, frozen=True):
    label: str | int
    support: tuple[int, int] | None = None
    timestamps: tuple[_Seconds, _Seconds] | None = None


class _FiftyOne(msgspec.Struct, frozen=True):
    labels: dict[str, list[_Detection] | None]
    classes: list[str] | None = None


def is_normal(label: str) -> bool:
    """Tells whether a class names no event."""
    return label.strip().lower().startswith("normal")


def class_named(label: str) -> str | None:
    """Returns the class that a label names; None if it says no more than abnormal."""
    return None if label.strip().lower() in ("", "abnormal", "anomaly") else label.strip()


def read_activitynet(path: str, fps: float | None) -> list[TruthEntry]:
    """Reads {"database": {id: {"subset", "annotations": [{"segment": [s, e], "label"}]}}}.

    Segments are in seconds; frames need the rate, from the entry or `fps`.
    """
    content = read_json_as(
        path, _ActivityNet, "ActivityNet's database", "correct it, or give another --format"
    )
    entries = []
    for name, video in content.database.items():
        where = f"{path}: video {name!r}"
        events = [each for each in video.annotations if not is_normal(each.label)]
        rate = video.fps or fps
        unlabelled = video.label == 1 and not events
        entries.append(
            TruthEntry(
                name=name,
                intervals=None
                if unlabelled
                else merge([_frames(each.segment, rate, where) for each in events]),
                num_frames=video.num_frames
                or (round(video.duration * rate) or None if video.duration and rate else None),
                fps=rate,
                label=int(bool(events)) if video.label is None else video.label,
                cls=video.cls or next(filter(None, (class_named(e.label) for e in events)), None),
                split=_split(video.subset, where),
                file=video.file,
            )
        )
    return entries


def _split(subset: str | None, where: str) -> str | None:
    if subset is not None and subset.lower() not in _SUBSETS:
        raise UserError(
            f"{where}: expected subset training, validation or testing, found {subset!r}; "
            "correct the entry"
        )
    return subset and _SUBSETS[subset.lower()]


def _frames(seconds: tuple[float, float], fps: float | None, where: str) -> tuple[int, int]:
    """Frames [start, end) of a span in seconds: at least one."""
    if fps is None:
        raise UserError(f"{where}: expected the frame rate of its seconds, found none; give --fps")
    start, end = (round(each * fps) for each in seconds)
    if seconds[0] >= seconds[1] or end > alignment.MOST_FRAMES:
        raise UserError(
            f"{where}: expected a start before an end, found {list(seconds)}; correct it"
        )
    return start, max(end, start + 1)


def read_fiftyone(path: str, fps: float | None) -> list[TruthEntry]:
    """Reads the labels.json of a FiftyOneTemporalDetectionDataset.

    `support` has the first and the last frame, counted from 1; `timestamps` are seconds. A video
    whose labels are null isn't labelled.
    """
    content = read_json_as(
        path, _FiftyOne, "FiftyOne's temporal detections", "correct it, or give another --format"
    )
    entries = []
    for name, detections in content.labels.items():
        where = f"{path}: video {name!r}"
        named = [(_name(each, content.classes, where), each) for each in detections or ()]
        events = [(label, each) for label, each in named if not is_normal(label)]
        entries.append(
            TruthEntry(
                name=name,
                intervals=None
                if detections is None
                else merge([_support(each, fps, where) for _, each in events]),
                fps=fps,
                label=None if detections is None else int(bool(events)),
                cls=next(filter(None, (class_named(label) for label, _ in events)), None),
            )
        )
    return entries


def _name(detection: _Detection, classes: list[str] | None, where: str) -> str:
    if isinstance(detection.label, str):
        return detection.label
    if classes is None or not 0 <= detection.label < len(classes):
        raise UserError(
            f"{where}: expected a label or the number of one in classes, found {detection.label}; "
            "correct it"
        )
    return classes[detection.label]


def _support(detection: _Detection, fps: float | None, where: str) -> tuple[int, int]:
    if detection.support is None:
        if detection.timestamps is None:
            raise UserError(
                f"{where}: expected support or timestamps, found neither; export it again"
            )
        return _frames(detection.timestamps, fps, where)
    first, last = detection.support
    if not 1 <= first <= last <= alignment.MOST_FRAMES:
        raise UserError(
            f"{where}: expected support [first, last] counted from 1, found {[first, last]}; "
            "correct it"
        )
    return first - 1, last


def to_activitynet(annotated: Annotations, fps: float | None) -> Json:
    """Returns a list's content as ActivityNet has it."""
    database = {}
    for video in annotated.videos.values():
        rate = video.fps or fps
        if video.abnormal_frames and rate is None:
            raise UserError(
                f"{annotated.path}: video {video.id!r}: expected its frame rate, because "
                "ActivityNet counts in seconds, found none; give --fps"
            )
        entry: dict[str, Any] = {
            "subset": _SUBSET_NAMES[video.split],
            "annotations": [
                {"segment": [start / rate, end / rate], "label": class_of(video)}
                for start, end in video.abnormal_frames or ()
                if rate
            ],
            "duration": video.num_frames / rate if video.num_frames and rate else None,
            "fps": rate,
            "num_frames": video.num_frames,
            "label": video.label,
            "class": video.cls,
            "file": video.file,
        }
        database[video.id] = {key: value for key, value in entry.items() if value is not None}
    labels = sorted({class_of(v) for v in annotated.videos.values() if v.label})
    taxonomy = [{"nodeId": n, "nodeName": name} for n, name in enumerate(labels)]
    return {"version": "gvvad", "taxonomy": taxonomy, "database": database}


def to_fiftyone(annotated: Annotations) -> Json:
    """Returns a list's content as the labels.json of a FiftyOneTemporalDetectionDataset.

    It has no splits, rates and lengths.
    """
    labels: Mapping[str, Any] = {
        video.id: None
        if video.label and video.abnormal_frames is None
        else [
            {"label": class_of(video), "support": [start + 1, end]}
            for start, end in video.abnormal_frames or ()
        ]
        for video in annotated.videos.values()
    }
    return {"labels": labels}


def class_of(video: VideoAnnotation) -> str:
    """Returns a class's name; "Abnormal" where none is known."""
    return video.cls or "Abnormal"
