"""What people are told of an import: its layouts, norms and what training needs."""

import collections
from collections.abc import Sequence
from typing import Any

from gvvad_jax.store.format import Manifest
from tools.importing import norms, writing
from tools.importing.layouts import Layout
from tools.importing.plans import ImportPlan, say
from tools.importing.videos import Video


def describe(key: tuple[str, str], members: Sequence[Video], layout: Layout, segments: int) -> str:
    """Returns a line on the videos of a source and split."""
    arrays = [video.files[0].array for video in members]
    lengths = [layout.snippets(array.shape) for array in arrays]
    dtypes = "/".join(sorted({str(array.dtype) for array in arrays}))
    span = f"{segments} segments each" if segments else f"T {min(lengths)} to {max(lengths)}"
    labels = collections.Counter(video.label for video in members)
    return (
        f"{key[0]}: {len(members):,} {key[1]} videos ({labels[1]:,} abnormal, {labels[0]:,} "
        f"normal), layout {layout.name}: {layout.shape} of {dtypes}, {span}"
    )


def summary(
    plan: ImportPlan, manifest: Manifest, planned: Sequence[writing.Planned], benchmark: str
) -> dict[str, Any]:
    """Returns what is imported, for the command's JSON."""
    used = {each.video.source for each in planned}
    counts: dict[str, dict[str, int]] = {}
    for each in planned:
        split = "synthetic" if each.video.synthetic else each.annotation.split
        by_label = counts.setdefault(split, {"normal": 0, "abnormal": 0})
        by_label["abnormal" if each.annotation.label else "normal"] += 1
    frames_known = sum(each.video.num_frames is not None for each in planned)
    return {
        "layout": {f"{k[0]} ({k[1]})": v.name for k, v in plan.layouts.items() if k in used},
        "segments": {f"{k[0]} ({k[1]})": n for k, n in plan.segmented.items() if n},
        "videos": counts,
        "snippets": sum(each.row.num_snippets for each in planned),
        "crops": manifest.crops["count"],
        "dim": manifest.dim,
        "text_dim": manifest.text["dim"] if manifest.text else 0,
        "dtype": manifest.dtype,
        "alignment": manifest.snippet["alignment"],
        "frame_counts_known": frames_known,
        "left_out": len({fault.video or fault.where for fault in plan.faults}),
        "encoder": manifest.encoder["id"],
        "benchmark": benchmark,
    }


def advise(plan: ImportPlan, manifest: Manifest) -> None:
    """Says what people should know before they train."""
    real = [video for video in plan.members if not video.synthetic] or plan.members
    measured = norms.norms_of(plan.contents[str(f.array)] for video in real for f in video.files)
    say(norms.describe(measured))
    for line in norms.advice(measured, manifest.dim):
        say(line)
    named = [(str(f.array), plan.contents[str(f.array)]) for v in plan.members for f in v.files]
    if pairs := norms.duplicates(named):
        say(f"{len(pairs):,} files have the content of another, first {' and '.join(pairs[0])}")
    if unlabelled := [v for v in plan.members if v.split == "test" and v.label
                      and v.abnormal_frames is None]:  # fmt: skip
        say(
            f"{len(unlabelled):,} abnormal test videos have no abnormal_frames, which frame-level "
            "measures need: give --annotations of gvvad import-truth, here or to evaluate"
        )
    if manifest.text:
        say(
            "rtfm, tevad and ur_dmu need no prompt bank; lap does: OUT/bank.npy, an array "
            f"[phrases, {manifest.text['dim']}] by the text's encoder ({manifest.text['encoder']})"
        )
