"""Reading a feature store, memory-mapped. numpy only.

A store with a parts/ folder is unfinished; readers refuse it.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests, sealing
from gvvad_jax.store.files import load_array, read_lines
from gvvad_jax.store.format import (
    Manifest,
    Quarantined,
    Row,
    array_path,
    bank_faults,
    row_faults,
    rows_hash,
    shard_paths,
)
from gvvad_jax.store.ids import require_ids

# Most files of a store that are mapped at a time, besides those whose rows are in use.
MAPPED_FILES = 32


def _load_rows(path: pathlib.Path) -> np.ndarray:
    kind = pathlib.Path(path.stem).suffix[1:]
    axes = {"visual": "[T, crops, dim]", "text": "[T, text_dim]"}[kind]
    try:
        array = load_array(path, f"an array {axes} of {kind} rows", "r")
    except UserError as error:
        raise UserError(f"{error}; {sealing.REMEDY}") from error
    if array.ndim != axes.count(",") + 1:
        raise UserError(
            f"{path}: expected an array {axes}, found {list(array.shape)}; {sealing.REMEDY}"
        )
    return array


def read_rows(shard: pathlib.Path) -> list[Row]:
    """Reads a shard's rows; raises UserError for a line that isn't the row of a video."""
    return read_lines(shard, Row.from_json, "one video's row", sealing.REMEDY)


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


def read_quarantine(path: pathlib.Path) -> list[Quarantined]:
    """Reads the videos of a store that couldn't be encoded."""
    path = path / "quarantine.jsonl"
    if not path.exists():
        return []
    return read_lines(path, Quarantined, 'a video\'s {"id", "reason"}', sealing.REMEDY)


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads the manifest of the store at `path`; raises UserError if it is missing or invalid."""
    return sealing.read(path).manifest


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
      verify_rows: whether a video's rows are compared with their digest when they are first read.

    Attributes:
      path: its folder.
      manifest: what holds for every row.
      rows: every encoded video's Row, by id, in sorted order.
      videos: the annotations it was encoded with.
      quarantined: reason by id of the videos that couldn't be encoded.

    Raises:
      UserError: no store at `path`, an unfinished one, or one whose files don't fit each other.
    """

    def __init__(self, path: str | os.PathLike[str], *, verify_rows: bool = True):
        if not isinstance(path, str | os.PathLike):
            raise UserError(
                f"path: expected the folder of a store, found {type(path).__name__}; give its path"
            )
        self.path = pathlib.Path(path)
        if not (self.path / "manifest.json").exists():
            raise UserError(
                f"{path}: expected a feature store (manifest.json), found none; "
                "make one with gvvad encode, or with StoreWriter.for_features"
            )
        if (self.path / "parts").exists():
            raise UserError(
                f"{path}: expected a finished store, found encoding under way (parts/); "
                "run the same encode command again to finish it"
            )
        self.manifest, self._files = sealing.read(self.path)
        if self._files is None:
            sealing.warn_of_version_1(str(path))
        for fault in sealing.faults(self.path, self._files).values():
            raise UserError(f"{fault}; {sealing.REMEDY}")
        self.videos = annotations.load(self.path / "videos.json")
        self.rows: dict[str, Row] = {}
        self._shards: dict[str, pathlib.Path] = {}
        # Each mapped file holds a file descriptor; a large store has more files than a process
        # may have descriptors.
        self._mapped = functools.lru_cache(MAPPED_FILES)(self._load)
        self._verified: set[str] | None = set() if verify_rows else None
        for shard in shard_paths(self.path):
            self._open(shard)
        require_ids(self.rows, str(path))
        self.quarantined = {each.id: each.reason for each in read_quarantine(self.path)}

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
        kinds = ("visual", "text") if self.manifest.text else ("visual",)
        arrays = [self._load(array_path(shard, kind)) for kind in kinds]
        length = min(len(array) for array in arrays)
        for row in read_rows(shard):
            if row.id in self.rows:
                raise UserError(f"{shard}: video {row.id!r}: expected once, found twice")
            if row.offset + row.num_snippets > length:
                raise UserError(
                    f"{shard}: video {row.id!r}: expected {row.offset + row.num_snippets} rows, "
                    f"found {length}: the shard is cut short; {sealing.REMEDY}"
                )
            self.rows[row.id] = row
            self._shards[row.id] = shard

    def _load(self, path: pathlib.Path) -> np.ndarray:
        """Maps a shard's rows; raises UserError unless they are those that the manifest says."""
        array, text = _load_rows(path), self.manifest.text
        is_text = path.name.endswith(".text.npy")
        width = (text["dim"],) if text and is_text else (
            self.manifest.crops["count"], self.manifest.dim
        )  # fmt: skip
        if array.shape[1:] != width or array.dtype != self.manifest.dtype:
            raise UserError(
                f"{path}: expected {self.manifest.dtype} rows of shape {list(width)}, found "
                f"{array.dtype} of {list(array.shape[1:])}; {sealing.REMEDY}"
            )
        return array

    def _rows(self, kind: str, video_id: str) -> np.ndarray:
        if self._verified is not None and video_id not in self._verified:
            self._verify(video_id)
            self._verified.add(video_id)
        return self._span(kind, video_id)

    def _span(self, kind: str, video_id: str) -> np.ndarray:
        row, path = self.rows[video_id], array_path(self._shards[video_id], kind)
        return self._mapped(path)[row.offset : row.offset + row.num_snippets]

    def _verify(self, video_id: str) -> None:
        row = self.rows[video_id]
        visual_TxNxD = self._span("visual", video_id)
        text_TxE = self._span("text", video_id) if self.manifest.text else None
        if row.sha256 and rows_hash(visual_TxNxD, text_TxE) != row.sha256:
            raise UserError(
                f"{self._shards[video_id]}: video {video_id!r}: expected rows of sha256 "
                f"{row.sha256[:12]}, found others; {sealing.REMEDY}"
            )

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
        """Returns a digest of the store's settings and of every video's rows.

        It doesn't depend on where the store lies, nor on how rows are shared among shards.
        """
        rows = [row.facts() for _, row in sorted(self.rows.items())]
        return digests.of_text("\n".join([self.manifest.digest(), *rows]))

    def faults(self) -> list[str]:
        """Returns every fault of the store, one line each that names the shard and the video."""
        faults = []
        for shard in shard_paths(self.path):
            expected_offset = 0
            for row, visual_TxNxD, text_TxE in read_shard(shard):
                faults_of_row = row_faults(row, visual_TxNxD, text_TxE, self.manifest)
                if row.offset != expected_offset:
                    faults_of_row.append(f"expected offset {expected_offset}, found {row.offset}")
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
