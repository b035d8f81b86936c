"""Features of one's own, checked and described as a store needs them. numpy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.alignment import ALIGNMENTS, fits
from gvvad_jax.store.format import DTYPES, SOURCES, Manifest, Row
from gvvad_jax.store.ids import require_id


def features_manifest(
    *,
    dim: int,
    crops: int,
    snippet_frames: int,
    text_dim: int,
    encoder: str,
    text_encoder: str,
    dtype: str,
    alignment: str,
) -> Manifest:
    """Returns the manifest of StoreWriter.for_features; raises UserError on a bad argument."""
    sizes = (("dim", dim, 1), ("crops", crops, 1), ("snippet_frames", snippet_frames, 1))
    for name, value, low in (*sizes, ("text_dim", text_dim, 0)):
        if type(value) is not int or value < low:
            raise UserError(
                f"{name}: expected a whole number of at least {low}, found {value!r}; correct it"
            )
    if dtype not in DTYPES:
        raise UserError(f"dtype: expected {' or '.join(DTYPES)}, found {dtype!r}; correct it")
    if alignment not in ALIGNMENTS:
        raise UserError(
            f"alignment: expected {' or '.join(ALIGNMENTS)}, found {alignment!r}; correct it"
        )
    text = {"encoder": text_encoder, "dim": text_dim, "normalised": "unknown"}
    return Manifest(
        encoder={
            "id": encoder,
            "weights": "unknown",
            "pooling": "unknown",
            "normalised": "unknown",
        },
        dim=dim,
        crops={"count": crops, "order": "unknown"},
        snippet={
            "frames": snippet_frames,
            "stride": snippet_frames,
            "pooling": "unknown",
            "alignment": alignment,
        },
        fps_policy="native",
        dtype=dtype,
        text=text if text_dim else None,
    )


def checked_rows(
    video_id: str, features: object, text: object | None, manifest: Manifest
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns a video's features [T, N, D] and text [T, E] as StoreWriter.add_video got them.

    Args:
      video_id: the video, for messages.
      features: an array [T, D] or [T, N, D].
      text: an array [T, E], or None.
      manifest: the manifest of the store.

    Raises:
      UserError: another type or shape, or values that aren't finite.
    """
    dim, crops = manifest.dim, manifest.crops["count"]
    where = f"add_video: video {video_id!r}"
    shapes = f"[T, {dim}] or [T, 1, {dim}]" if crops == 1 else f"[T, {crops}, {dim}]"
    visual = _numbers(features, f"{where}: features", shapes)
    visual_TxNxD = visual[:, None] if visual.ndim == 2 else visual
    if visual_TxNxD.ndim != 3 or not len(visual) or visual_TxNxD.shape[1:] != (crops, dim):
        raise UserError(
            f"{where}: features: expected an array {shapes}, found {list(visual.shape)}; correct "
            "it, or the sizes given to for_features"
        )
    if manifest.text is None:
        if text is not None:
            raise UserError(
                f"{where}: text: expected none, found some; give text_dim to for_features"
            )
        return visual_TxNxD, None
    text_shape = (len(visual), manifest.text["dim"])
    if text is None:
        raise UserError(
            f"{where}: text: expected an array {list(text_shape)}, found none; give text, or no "
            "text_dim to for_features"
        )
    text_TxE = _numbers(text, f"{where}: text", str(list(text_shape)))
    if text_TxE.shape != text_shape:
        raise UserError(
            f"{where}: text: expected an array {list(text_shape)}, found {list(text_TxE.shape)}; "
            "give one row for each snippet"
        )
    return visual_TxNxD, text_TxE


def _numbers(value: object, where: str, shapes: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"{where}: expected an array {shapes} of numbers, found {array.dtype}; convert it"
        )
    if not np.isfinite(array).all():
        raise UserError(f"{where}: expected finite numbers, found NaN or infinity; correct them")
    return array


def described_video(
    video_id: str,
    num_snippets: int,
    manifest: Manifest,
    *,
    label: int,
    split: str,
    fps: float,
    num_frames: int | None,
    abnormal_frames: Sequence[Sequence[int]] | None,
    class_name: str | None,
    group: str | None,
    source: str,
) -> tuple[annotations.VideoAnnotation, Row]:
    """Returns a video's annotation and row; see StoreWriter.add_video for the arguments.

    Raises:
      UserError: an argument of another type or range.
    """
    require_id(video_id, "add_video")
    if source not in SOURCES:
        raise UserError(
            f"add_video: video {video_id!r}: source: expected {' or '.join(SOURCES)}, found "
            f"{source!r}; correct it"
        )
    frames = num_snippets * manifest.snippet["frames"] if num_frames is None else num_frames
    entry: dict[str, Any] = {
        # A path that nobody opens: the store has the features.
        "file": video_id,
        "label": _plain(label),
        "split": split,
        "fps": _plain(fps),
        "num_frames": _plain(frames),
        "class": class_name,
        "group": group,
    }
    if abnormal_frames is not None:
        entry["abnormal_frames"] = _plain_pairs(abnormal_frames)
    content = {"videos": {video_id: entry}}
    annotation = annotations.from_json(content, "add_video").videos[video_id]
    snippet = manifest.snippet
    if snippet["alignment"] == "exact" and not fits(
        num_snippets, entry["num_frames"], snippet["frames"], snippet["stride"]
    ):
        raise UserError(
            f"add_video: video {video_id!r}: expected a row for every {snippet['frames']} of its "
            f"{entry['num_frames']} frames, found {num_snippets} rows; correct num_frames, or give "
            'alignment="even" to for_features if rows share a video\'s time evenly, as segments do'
        )
    row = Row(
        id=video_id,
        num_snippets=num_snippets,
        num_frames=entry["num_frames"],
        fps=float(fps),
        source=source,
        declared_frames=entry["num_frames"],
        decoded_frames=entry["num_frames"],
    )
    return annotation, row


def _plain_pairs(pairs: Sequence[Sequence[int]]) -> Any:
    """Pairs of numpy numbers as Python's; what is no pair stays, and the entry's check names it."""
    try:
        return [[_plain(frame) for frame in pair] for pair in pairs]
    except TypeError:
        return _plain(pairs)


def _plain(value: Any) -> Any:
    """A numpy number as Python's."""
    return value.item() if isinstance(value, np.generic) else value
