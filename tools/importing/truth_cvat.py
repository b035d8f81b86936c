"""Temporal labels in CVAT's XML (version 1.1), in and out.

"CVAT for images" has the tags of single frames, "CVAT for video" tracks that begin and end.
"""

import collections
import pathlib
import re
import xml.etree.ElementTree as ET
from typing import Any

from gvvad_jax.command import UserError
from gvvad_jax.store import alignment
from gvvad_jax.store.annotations import Annotations, VideoAnnotation
from gvvad_jax.store.files import require_regular
from tools.importing.truth_entries import TruthEntry, merge
from tools.importing.truth_json import class_named, class_of, is_normal

_MAX_BYTES = 512 << 20
_EXPECTED = "CVAT's annotations.xml"


class _Target(ET.TreeBuilder):
    """Builds the tree of a text that defines nothing of its own: entities could grow endless."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type, which CVAT doesn't write")


def read_cvat(path: str) -> list[TruthEntry]:
    """Reads an annotations.xml of a task or project, or a folder of one for each video.

    A frame with any label but normal is abnormal, and so is one inside a track.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        return _read(path)
    found = sorted(folder.rglob("*.xml"))
    if not found:
        raise UserError(f"{path}: expected {_EXPECTED}, found no .xml file; name its folder")
    return [entry for each in found for entry in _read(str(each))]


def _read(path: str) -> list[TruthEntry]:
    require_regular(path, _EXPECTED, _MAX_BYTES)
    try:
        root = ET.parse(path, ET.XMLParser(target=_Target())).getroot()
    except (ET.ParseError, ValueError, LookupError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:100]
        raise UserError(f"{path}: expected {_EXPECTED}, found something else ({reason})") from error
    tasks = list(root.iterfind("meta//task")) if root.tag == "annotations" else []
    if not tasks:
        raise UserError(
            f"{path}: expected {_EXPECTED} with a task in it, found none; export it as CVAT for "
            "images or for video"
        )
    return [_entry(task, root, len(tasks) == 1, path) for task in tasks]


def _entry(task: ET.Element, root: ET.Element, alone: bool, path: str) -> TruthEntry:
    number = task.findtext("id") or ""
    source = task.findtext("source") or (root.findtext("meta/source") if alone else None)
    name = (source or task.findtext("name") or "").strip()
    where = f"{path}: task {name or number!r}"
    if not name:
        raise UserError(f"{where}: expected a name or a source, found neither; correct it")
    step = re.fullmatch(r"\s*step\s*=\s*(\d+)\s*", task.findtext("frame_filter") or "")
    if step and step[1] != "1":
        raise UserError(
            f"{where}: expected every frame of the video, found every {step[1]}th; annotate it "
            "without a frame filter"
        )
    offset = _int(task.findtext("start_frame") or "0", where)
    frames: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    for child in root:
        if not alone and child.get("task_id") != number:
            continue
        if child.tag == "image":
            frame = _frame(child, where, alone)
            for label in child:
                frames[label.get("label") or ""].append((frame, frame + 1))
        elif child.tag == "track":
            frames[child.get("label") or ""] += _spans(child, where)
    events = {label: spans for label, spans in frames.items() if not is_normal(label) and spans}
    size = task.findtext("size")
    num_frames = _int(size, where) if size and not offset else None
    intervals = merge([(a + offset, b + offset) for spans in events.values() for a, b in spans])
    named = max(events, key=lambda label: sum(b - a for a, b in events[label]), default="")
    return TruthEntry(
        name=name,
        intervals=intervals,
        num_frames=num_frames or None,
        label=int(bool(intervals)),
        cls=class_named(named),
    )


def _frame(image: ET.Element, where: str, alone: bool) -> int:
    """The frame of an image: of a video its name says it, also in projects of several."""
    named = re.search(r"frame_(\d{1,9})(?:\.\w+)?$", image.get("name") or "")
    if named:
        return _int(named[1], where)
    if not alone:
        raise UserError(
            f"{where}: expected images called frame_N, found {(image.get('name') or '')[:60]!r}; "
            "export each task by itself"
        )
    return _int(image.get("id"), where)


def _spans(track: ET.Element, where: str) -> list[tuple[int, int]]:
    """[start, end) of a track: from a shape to the next one that is outside, or the last one."""
    shapes = sorted((_int(s.get("frame"), where), s.get("outside") == "1") for s in track)
    spans = []
    for index, (frame, outside) in enumerate(shapes):
        if not outside:
            following = shapes[index + 1][0] if index + 1 < len(shapes) else frame + 1
            spans.append((frame, max(following, frame + 1)))
    return spans


def _int(text: str | None, where: str) -> int:
    if text is None or not re.fullmatch(r"\s*\d{1,9}\s*", text):
        raise UserError(f"{where}: expected the number of a frame, found {text!r}; export it again")
    if (value := int(text)) > alignment.MOST_FRAMES:
        raise UserError(f"{where}: expected at most {alignment.MOST_FRAMES} frames, found {value}")
    return value


def to_cvat(annotated: Annotations) -> dict[str, bytes]:
    """Returns an annotations.xml ("CVAT for images 1.1") for each video, by file name.

    CVAT takes annotations task by task. Each abnormal frame has a tag with the video's class.
    """
    names: dict[str, bytes] = {}
    for video in annotated.videos.values():
        if video.abnormal_frames is None and video.label:
            continue  # Not labelled in time.
        file = re.sub(r"[^\w.#-]+", "_", video.id)[:200] + ".xml"
        if file in names:
            raise UserError(
                f"{annotated.path}: expected ids whose files differ, found {video.id!r} and "
                "another one; rename it"
            )
        names[file] = _document(video)
    return names


def _document(video: VideoAnnotation) -> bytes:
    root = ET.Element("annotations")
    _text(root, "version", "1.1")
    meta = ET.SubElement(root, "meta")
    task = ET.SubElement(meta, "task")
    _text(task, "name", video.id)
    if video.num_frames:
        _text(task, "size", video.num_frames)
    _text(task, "mode", "annotation")
    labels = ET.SubElement(task, "labels")
    _text(ET.SubElement(labels, "label"), "name", class_of(video))
    _text(meta, "source", video.id)
    for start, end in video.abnormal_frames or ():
        for frame in range(start, end):
            image = ET.SubElement(root, "image", id=str(frame), name=f"frame_{frame:06d}")
            ET.SubElement(image, "tag", label=class_of(video), source="manual")
    ET.indent(root, " ")
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _text(parent: ET.Element, tag: str, value: Any) -> None:
    ET.SubElement(parent, tag).text = str(value)
