"""The feature store: what the PyTorch side writes and the JAX side reads. numpy only.

    python -m gvvad_jax.store PATH

validates a store and prints a summary. Here are the format and the reader; store_writer.py
writes. A store with a parts/ folder is unfinished and no reader takes it.
"""

import dataclasses
import functools
import hashlib
import json
import operator
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax import annotations
from gvvad_jax.command import UserError, run_command
from gvvad_jax.files import load_array, read_lines
from gvvad_jax.files import (
    write_atomically as write_atomically,
)  # For those who know the store alone.

FORMAT_VERSION = 1
DTYPES = ("float16", "float32")
SOURCES = ("real", "synthetic")
# At most so many files of a store are mapped at a time, besides those whose rows are in use.
MAPPED_FILES = 32
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
        times_Tx2 = annotations.snippet_times(
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


def _load_rows(path: pathlib.Path) -> np.ndarray:
    kind = pathlib.Path(path.stem).suffix[1:]
    axes = {"visual": "[T, crops, dim]", "text": "[T, text_dim]"}[kind]
    array = load_array(path, f"an array {axes} of {kind} rows (else encode again)", "r")
    if array.ndim != axes.count(",") + 1:
        raise UserError(
            f"{path}: expected an array {axes}, found {list(array.shape)}; encode again"
        )
    return array


def _row(content: Any) -> Row:
    row = Row(**content)
    counts = (row.offset, row.num_snippets, row.num_frames)
    if not isinstance(row.id, str) or not all(type(n) is int and n >= 0 for n in counts):
        raise TypeError("id is a string, counts are whole numbers")
    if not row.fps > 0:
        raise ValueError("fps is positive")
    return row


def read_rows(shard: pathlib.Path) -> list[Row]:
    """A shard's lines; raises UserError for one that is no video's row."""
    return read_lines(shard, _row, "one video's row", "encode again")


def shard_rows(
    shard: pathlib.Path,
) -> Iterator[tuple[Row, np.ndarray, np.ndarray | None]]:
    """A shard's videos: row, visual [T, crops, dim], text [T, text_dim] or None; mapped."""
    visual = _load_rows(array_path(shard, "visual"))
    text_path = array_path(shard, "text")
    text = _load_rows(text_path) if text_path.exists() else None
    for row in read_rows(shard):
        span = slice(row.offset, row.offset + row.num_snippets)
        yield row, visual[span], None if text is None else text[span]


def read_quarantine(path: pathlib.Path) -> list[dict[str, str]]:
    """{id, reason} of each video that couldn't be encoded; made_of too where it was told."""
    path = path / "quarantine.jsonl"
    if not path.exists():
        return []

    def parse(entry: Any) -> dict[str, str]:
        if not isinstance(entry["id"], str) or not isinstance(entry["reason"], str):
            raise TypeError("both are strings")
        return entry

    return read_lines(path, parse, 'a video\'s {"id", "reason"}', "encode again")


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


def read_manifest(path: str | os.PathLike) -> Manifest:
    """The manifest of the store at `path`; raises UserError when there is none, or of no use."""
    manifest_path = pathlib.Path(path) / "manifest.json"
    content = annotations.read_json(manifest_path)
    version = content.pop("format_version", None) if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{manifest_path}: expected format_version {FORMAT_VERSION}, found {version}; "
            "encode again with this version"
        )
    try:
        manifest = Manifest(**content)
    except TypeError as error:
        raise UserError(f"{manifest_path}: expected a manifest, found {error}") from error
    if manifest.dtype not in DTYPES:
        raise UserError(
            f"{manifest_path}: expected dtype {' or '.join(DTYPES)}, found {manifest.dtype!r}"
        )
    return manifest


class Store:
    """A finished store, memory-mapped.

    Attributes:
      path: its folder.
      manifest: what holds for every row.
      rows: every encoded video's Row, by id, in sorted order.
      videos: the annotations it was encoded with.
      quarantined: reason by id of the videos that couldn't be encoded.

    Raises:
      UserError: no store at `path`, an unfinished one, or one whose files don't fit each other.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        if not (self.path / "manifest.json").exists():
            raise UserError(
                f"{path}: expected a feature store (manifest.json), found none; "
                "make one with python -m generation.encode"
            )
        if (self.path / "parts").exists():
            raise UserError(
                f"{path}: expected a finished store, found encoding under way (parts/); "
                "run the same encode command again to finish it"
            )
        self.manifest = read_manifest(self.path)
        self.videos = annotations.load(self.path / "videos.json")
        self.rows: dict[str, Row] = {}
        self._shards: dict[str, pathlib.Path] = {}
        # A mapped file holds a descriptor, and a large store has more files than a process may.
        self._mapped = functools.lru_cache(MAPPED_FILES)(_load_rows)
        for shard in shard_paths(self.path):
            self._open(shard)
        self.quarantined = {e["id"]: e["reason"] for e in read_quarantine(self.path)}

    def _open(self, shard: pathlib.Path) -> None:
        arrays = [_load_rows(array_path(shard, "visual"))]
        if self.manifest.text:
            arrays.append(_load_rows(array_path(shard, "text")))
        length = min(len(array) for array in arrays)
        for row in read_rows(shard):
            if row.id in self.rows:
                raise UserError(f"{shard}: video {row.id!r}: expected once, found twice")
            if row.offset + row.num_snippets > length:
                raise UserError(
                    f"{shard}: video {row.id!r}: expected {row.offset + row.num_snippets} rows, "
                    f"found {length}; the shard is cut short: encode again"
                )
            self.rows[row.id] = row
            self._shards[row.id] = shard

    def _rows(self, kind: str, video_id: str) -> np.ndarray:
        row, path = self.rows[video_id], array_path(self._shards[video_id], kind)
        return self._mapped(path)[row.offset : row.offset + row.num_snippets]

    def visual(self, video_id: str) -> np.ndarray:
        """A video's visual rows, a view [T, crops, dim] of the mapped shard."""
        return self._rows("visual", video_id)

    def text(self, video_id: str) -> np.ndarray | None:
        """A video's text rows, a view [T, text_dim], or None."""
        return self._rows("text", video_id) if self.manifest.text else None

    def release(self) -> None:
        """Lets go of the files; what is read next maps them again."""
        self._mapped.cache_clear()

    def times(self, video_id: str) -> np.ndarray:
        """Start and end of a video's snippets in seconds, float64 [T, 2]."""
        return self.manifest.times(self.rows[video_id])

    def digest(self) -> str:
        """A hash of the store's manifest and of every row's hash; for provenance."""
        parts = [json.dumps(self.manifest.to_json(), sort_keys=True)]
        parts += [f"{row.id} {row.sha256}" for row in self.rows.values()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def faults(self) -> list[str]:
        """Every fault of the store, one line each naming shard, video, expected and found."""
        faults = []
        for shard in shard_paths(self.path):
            expected_offset = 0
            for row, visual_TxNxD, text_TxE in shard_rows(shard):
                found = row_faults(row, visual_TxNxD, text_TxE, self.manifest)
                if row.offset != expected_offset:
                    found.append(f"expected offset {expected_offset}, found {row.offset}")
                if rows_hash(visual_TxNxD, text_TxE) != row.sha256:
                    found.append(f"expected rows of sha256 {row.sha256[:12]}, found others")
                expected_offset = row.offset + row.num_snippets
                faults += [f"{shard.name}: video {row.id!r}: {fault}" for fault in found]
            if expected_offset != len(_load_rows(array_path(shard, "visual"))):
                faults.append(f"{shard.name}: expected {expected_offset} rows, found others")
        known = set(self.rows) | set(self.quarantined)
        for video_id in sorted(set(self.videos.videos) ^ known):
            faults.append(f"videos.json: video {video_id!r}: expected in both list and shards")
        return faults + self._bank_faults()

    def _bank_faults(self) -> list[str]:
        path = self.path / "bank.npy"
        if not path.exists() or not self.manifest.text:
            return []
        try:
            bank_KxE = load_array(path, "an array [K, text_dim] (else embed the bank again)")
        except UserError as error:
            return [str(error)]
        return [f"bank.npy: {fault}" for fault in bank_faults(bank_KxE, self.manifest)]

    def summary(self) -> dict[str, Any]:
        """Counts for people: videos, snippets and hours by source and label."""
        rows = self.rows.values()
        labels = [self.videos.videos[row.id].label for row in rows if row.id in self.videos.videos]
        return {
            "path": str(self.path),
            "encoder": self.manifest.encoder["id"],
            "dim": self.manifest.dim,
            "text": self.manifest.text and self.manifest.text["encoder"],
            "crops": self.manifest.crops["count"],
            "videos": len(self.rows),
            "abnormal": sum(labels),
            "synthetic": sum(row.source == "synthetic" for row in rows),
            "snippets": sum(row.num_snippets for row in rows),
            "hours": round(sum(row.num_frames / row.fps for row in rows) / 3600, 3),
            "quarantined": len(self.quarantined),
        }


def require_agreement(stores: Sequence[Store]) -> None:
    """Raises UserError unless all stores of one run are of the same making."""
    for other in stores[1:]:
        differences = stores[0].manifest.differences(other.manifest)
        if differences:
            raise UserError(
                f"{other.path}: expected a store like {stores[0].path}, found "
                f"{'; '.join(differences)}; encode both with the same settings"
            )


def main(arguments: Sequence[str]) -> None:
    store = Store(arguments[0])
    faults = store.faults()
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        raise UserError(f"{store.path}: expected a sound store, found {len(faults)} faults")
    print(json.dumps(store.summary()))


if __name__ == "__main__":
    run_command(main, usage=__doc__, positional=1)
