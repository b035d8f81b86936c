"""The format of a feature store: its manifest, its rows, and their faults. numpy only."""

import dataclasses
import hashlib
import operator
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gvvad_jax.store import alignment

FORMAT_VERSION = 1
DTYPES = ("float16", "float32")
SOURCES = ("real", "synthetic")
# The captioner of a store whose text rows are the generated videos' own descriptions.
STAND_IN = "description"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What holds for every row of a store; BUILD.md has the whole format.

    Attributes:
      encoder: {id, weights, pooling, normalised}; "unknown" is allowed for imports.
      dim: width of a visual row.
      crops: {count, order}.
      snippet: {frames, stride, pooling: middle|mean}.
      fps_policy: "native", or the frames per second that videos were resampled to.
      dtype: of the visual rows, float16 or float32.
      text: {encoder, dim, normalised}, or None without text.
    """

    encoder: Mapping[str, Any]
    dim: int
    crops: Mapping[str, Any]
    snippet: Mapping[str, Any]
    fps_policy: float | str
    dtype: str = "float32"
    text: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION} | dataclasses.asdict(self)

    def differences(self, other: "Manifest", unknown_agrees: bool = False) -> list[str]:
        """Fields in which two stores of one run must agree but do not; dtype may differ.

        A generated video's description may stand in for what any captioner would say. With
        `unknown_agrees` a value "unknown" (of an imported checkpoint) equals any other.
        """
        ours, theirs = self.to_json(), other.to_json()
        if ours["text"] and theirs["text"]:
            captioners = {text.get("captioner") for text in (ours["text"], theirs["text"])}
            if STAND_IN in captioners:
                ours["text"] = dict(ours["text"], captioner=STAND_IN)
                theirs["text"] = dict(theirs["text"], captioner=STAND_IN)
        fields = ("encoder", "dim", "crops", "snippet", "fps_policy", "text")
        same = _same_or_unknown if unknown_agrees else operator.eq
        return [
            f"{field} {ours[field]} against {theirs[field]}"
            for field in fields
            if not same(ours[field], theirs[field])
        ]

    def times(self, row: "Row") -> np.ndarray:
        """Start and end of each of a video's snippets, float64 [T, 2], in seconds."""
        times_Tx2 = alignment.snippet_times(
            row.num_frames,
            row.fps,
            self.snippet["frames"],
            self.snippet["stride"],
            self.fps_policy,
        )
        if len(times_Tx2) == row.num_snippets:
            return times_Tx2
        # Imported rows come without their frames: their snippets share the video's time evenly.
        borders = np.linspace(0.0, row.num_frames / row.fps, row.num_snippets + 1)
        return np.stack([borders[:-1], borders[1:]], axis=1)


def _same_or_unknown(ours: Any, theirs: Any) -> bool:
    if "unknown" in (ours, theirs):
        return True
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        return ours == theirs
    if "unknown" in (*ours.values(), *theirs.values()):
        return all(_same_or_unknown(ours[key], theirs[key]) for key in ours.keys() & theirs.keys())
    return ours == theirs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a shard's .jsonl: one video.

    Attributes:
      id: the video's id in videos.json.
      offset: of its first snippet in the shard.
      num_snippets: T.
      num_frames: frames of the source video, as decoded.
      fps: of the source video.
      source: real or synthetic.
      declared_frames: what the container promised; more than decoded means damage.
      decoded_frames: what was decoded.
      sha256: of the visual rows' bytes followed by the text rows' bytes.
      description, twin, seed: where the video was generated.
      pixel_statistics: the filter's pixel measures, by name.
      feature_statistics: its measures of the encoder's features of single frames, by name.
      made_of: a digest of the video's content and of what else its writer was given for it.
    """

    id: str
    offset: int = 0
    num_snippets: int
    num_frames: int
    fps: float
    source: str
    declared_frames: int
    decoded_frames: int
    sha256: str = ""
    description: str | None = None
    twin: str | None = None
    seed: int | None = None
    pixel_statistics: Mapping[str, float] | None = None
    feature_statistics: Mapping[str, float] | None = None
    made_of: str | None = None


def rows_hash(visual_TxNxD: np.ndarray, text_TxE: np.ndarray | None) -> str:
    """sha256 of a video's rows, visual then text, as hexadecimal digits."""
    digest = hashlib.sha256(np.ascontiguousarray(visual_TxNxD).tobytes())
    if text_TxE is not None:
        digest.update(np.ascontiguousarray(text_TxE).tobytes())
    return digest.hexdigest()


def shard_paths(path: pathlib.Path) -> list[pathlib.Path]:
    """The .jsonl files of a store's shards, in order; each stands for its shard below."""
    return sorted(path.glob("shard-*.jsonl"))


def array_path(shard: pathlib.Path, kind: str) -> pathlib.Path:
    """Where a shard's rows of a kind, visual or text, are."""
    return shard.with_suffix(f".{kind}.npy")


def row_faults(
    row: Row, visual_TxNxD: np.ndarray, text_TxE: np.ndarray | None, manifest: Manifest
) -> list[str]:
    """What is wrong with one video's rows, as "expected, found" phrases."""
    faults = []

    def expect(what: str, expected: Any, found: Any) -> None:
        if expected != found:
            faults.append(f"expected {what} {expected}, found {found}")

    shape = (row.num_snippets, manifest.crops["count"], manifest.dim)
    expect("visual shape", shape, visual_TxNxD.shape)
    expect("visual dtype", manifest.dtype, str(visual_TxNxD.dtype))
    expect("source among", True, row.source in SOURCES)
    expect("at least one snippet", True, row.num_snippets > 0)
    if not np.isfinite(visual_TxNxD).all():
        faults.append("expected finite visual rows, found NaN or infinity")
    expect("text", bool(manifest.text), text_TxE is not None)
    if manifest.text and text_TxE is not None:
        expect("text shape", (row.num_snippets, manifest.text["dim"]), text_TxE.shape)
        if not np.isfinite(text_TxE).all():
            faults.append("expected finite text rows, found NaN or infinity")
    return faults


def bank_faults(bank_KxE: np.ndarray, manifest: Manifest) -> list[str]:
    """What is wrong with a prompt bank for a store with text, as "expected, found" phrases."""
    dim = manifest.text["dim"]
    if bank_KxE.ndim != 2 or not len(bank_KxE) or bank_KxE.shape[1] != dim:
        return [f"expected at least one row of width {dim}, found shape {list(bank_KxE.shape)}"]
    return [] if np.isfinite(bank_KxE).all() else ["expected finite rows, found NaN or infinity"]
