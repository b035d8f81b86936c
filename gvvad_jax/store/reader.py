"""Reading a feature store, memory-mapped. numpy only.

A store with a parts/ folder is unfinished; readers refuse it.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations, digests
from gvvad_jax.store.files import load_array, read_json, read_lines
from gvvad_jax.store.format import (
    DTYPES,
    FORMAT_VERSION,
    Manifest,
    Row,
    array_path,
    bank_faults,
    row_faults,
    rows_hash,
    shard_paths,
)

# Most files of a store that are mapped at a time, besides those whose rows are in use.
MAPPED_FILES = 32


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
    """Reads a shard's rows; raises UserError for a line that isn't the row of a video."""
    return read_lines(shard, _row, "one video's row", "encode again")


def read_shard(
    shard: pathlib.Path,
) -> Iterator[tuple[Row, np.ndarray, np.ndarray | None]]:
    """Yields a shard's videos: row, visual [T, N, D], text [T, E] or None; memory-mapped."""
    visual = _load_rows(array_path(shard, "visual"))
    text_path = array_path(shard, "text")
    text = _load_rows(text_path) if text_path.exists() else None
    for row in read_rows(shard):
        span = slice(row.offset, row.offset + row.num_snippets)
        yield row, visual[span], None if text is None else text[span]


def read_quarantine(path: pathlib.Path) -> list[dict[str, str]]:
    """Reads {id, reason} of each video that couldn't be encoded, with made_of where it is known."""
    path = path / "quarantine.jsonl"
    if not path.exists():
        return []

    def parse(entry: Any) -> dict[str, str]:
        if not isinstance(entry["id"], str) or not isinstance(entry["reason"], str):
            raise TypeError("both are strings")
        return entry

    return read_lines(path, parse, 'a video\'s {"id", "reason"}', "encode again")


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads the manifest of the store at `path`; raises UserError if it is missing or invalid."""
    manifest_path = pathlib.Path(path) / "manifest.json"
    content = read_json(manifest_path)
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
    for fault in alignment.snippet_faults(manifest.snippet, manifest.fps_policy):
        raise UserError(f"{manifest_path}: {fault}; encode again")
    return manifest


@dataclasses.dataclass(frozen=True, eq=False)
class Video:
    """One video of a store.

    Attributes:
      id: its name.
      row: its line in the store: frames, frame rate, source, digest.
      annotation: its label, split and abnormal frames; None where videos.json doesn't list it.
      visual_TxNxD: its visual features, T snippets of N crops; memory-mapped.
      text_TxE: its text features; None in a store without text.
      times_Tx2: start and end of each snippet in seconds.
    """

    id: str
    row: Row
    annotation: annotations.VideoAnnotation | None
    visual_TxNxD: np.ndarray
    text_TxE: np.ndarray | None
    times_Tx2: np.ndarray


class Store(Mapping[str, Video]):
    """A finished store, memory-mapped: a mapping from video ids to videos.

        store = Store("STORE")
        len(store), list(store), store["a"].visual_TxNxD

    Args:
      path: the store's folder.

    Attributes:
      path: its folder.
      manifest: what holds for every row.
      rows: every encoded video's Row, by id, in sorted order.
      videos: the annotations it was encoded with.
      quarantined: reason by id of the videos that couldn't be encoded.

    Raises:
      UserError: no store at `path`, an unfinished one, or one whose files don't fit each other.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if not isinstance(path, str | os.PathLike):
            raise UserError(
                f"path: expected the folder of a store, found {type(path).__name__}; give its path"
            )
        self.path = pathlib.Path(path)
        if not (self.path / "manifest.json").exists():
            raise UserError(
                f"{path}: expected a feature store (manifest.json), found none; "
                "make one with python -m generation.encode, or with StoreWriter.for_features"
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
        # Each mapped file holds a file descriptor; a large store has more files than a process
        # may have descriptors.
        self._mapped = functools.lru_cache(MAPPED_FILES)(_load_rows)
        for shard in shard_paths(self.path):
            self._open(shard)
        self.quarantined = {e["id"]: e["reason"] for e in read_quarantine(self.path)}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self.rows

    def __getitem__(self, video_id: str) -> Video:
        return Video(
            id=video_id,
            row=self.rows[video_id],
            annotation=self.videos.videos.get(video_id),
            visual_TxNxD=self.visual(video_id),
            text_TxE=self.text(video_id),
            times_Tx2=self.times(video_id),
        )

    # A mapping would compare the arrays of all videos. Two stores are equal if they are the same.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

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
        """Returns a video's visual features, a view [T, N, D] of the mapped shard."""
        return self._rows("visual", video_id)

    def text(self, video_id: str) -> np.ndarray | None:
        """Returns a video's text features, a view [T, E], or None in a store without text."""
        return self._rows("text", video_id) if self.manifest.text else None

    def release(self) -> None:
        """Closes the mapped files; the next read maps them again."""
        self._mapped.cache_clear()

    def times(self, video_id: str) -> np.ndarray:
        """Returns the start and end of a video's snippets in seconds, float64 [T, 2]."""
        return self.manifest.times(self.rows[video_id])

    def digest(self) -> str:
        """Returns a digest of the store's manifest and of every row's digest."""
        parts = [json.dumps(self.manifest.to_json(), sort_keys=True)]
        parts += [f"{row.id} {row.sha256}" for row in self.rows.values()]
        return digests.of_text("\n".join(parts))

    def faults(self) -> list[str]:
        """Returns every fault of the store, one line each that names the shard and the video."""
        faults = []
        for shard in shard_paths(self.path):
            expected_offset = 0
            for row, visual_TxNxD, text_TxE in read_shard(shard):
                faults_of_row = row_faults(row, visual_TxNxD, text_TxE, self.manifest)
                if row.offset != expected_offset:
                    faults_of_row.append(f"expected offset {expected_offset}, found {row.offset}")
                if rows_hash(visual_TxNxD, text_TxE) != row.sha256:
                    faults_of_row.append(f"expected rows of sha256 {row.sha256[:12]}, found others")
                expected_offset = row.offset + row.num_snippets
                faults += [f"{shard.name}: video {row.id!r}: {fault}" for fault in faults_of_row]
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
        """Returns the encoder and the number of videos, snippets and hours, for people."""
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
    """Raises UserError unless all stores of a run were encoded with the same settings."""
    for other in stores[1:]:
        differences = stores[0].manifest.differences(other.manifest)
        if differences:
            raise UserError(
                f"{other.path}: expected a store like {stores[0].path}, found "
                f"{'; '.join(differences)}; encode both with the same settings"
            )
