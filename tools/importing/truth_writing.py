"""Writes what was read: videos.json, or a format of an annotation tool."""

import collections
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from gvvad_jax import conventions
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, files
from tools.importing import truth_cvat, truth_json


def write(annotated: annotations.Annotations, out: str, to: str, fps: float | None) -> None:
    """Writes what was read, unless another list is there, which may have been edited."""
    path = pathlib.Path(out)
    if to == "cvat":
        _write_folder(path, truth_cvat.to_cvat(annotated))
        return
    content = {
        "videos": annotated.to_json,
        "activitynet": lambda: truth_json.to_activitynet(annotated, fps),
        "fiftyone": lambda: truth_json.to_fiftyone(annotated),
    }[to]()
    if path.exists() and files.read_json(path) != content:
        raise UserError(
            f"--out={out}: expected no list here yet, found another one, which may be edited; "
            "move it away or give another --out"
        )
    files.write_json(path, content)


def _write_folder(out: pathlib.Path, documents: Mapping[str, bytes]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"--out={out}: expected an absent or empty folder, found another; give another --out"
        )
    # All files or none: they get their names together.
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        for name, content in documents.items():
            (partial / name).write_bytes(content)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def summarise(annotated: annotations.Annotations) -> dict[str, Any]:
    """Counts videos and frames; see truth.import_truth."""
    videos = annotated.videos.values()
    counts = collections.Counter((video.split, video.label) for video in videos)
    splits = {
        split: {"normal": counts[split, 0], "abnormal": counts[split, 1]}
        for split in annotations.SPLITS
        if counts[split, 0] or counts[split, 1]
    }
    tested = annotated.in_split("test")
    lengths = [video.num_frames for video in tested]
    sizes = {split: tuple(each.values()) for split, each in splits.items()}
    data_set = [
        name for name, published in conventions.SIZES.items() if sizes and all(
            published.get(split) == size for split, size in sizes.items()
        )
    ]  # fmt: skip
    marked = sum(b - a for video in tested for a, b in video.abnormal_frames or ())
    return {
        **splits,
        "frames": sum(n for n in lengths if n) if all(lengths) else None,
        "abnormal_frames": marked,
        "as_published": data_set[0] if data_set else None,
    }
