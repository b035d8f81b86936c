"""Writing a feature store: a part a video, then shards. numpy only.

While encoding runs, each video is one part in parts/, which appears whole and is the unit of
resuming; packing puts the parts into shards by sorted id, so shards depend neither on the number
of writers nor on how often they were killed.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.files import read_json, write_atomically
from gvvad_jax.store.format import Manifest, Row, array_path, row_faults, rows_hash, shard_paths
from gvvad_jax.store.reader import read_manifest, read_quarantine, read_rows, read_shard

SHARD_BYTES = 1 << 30
_EMPTIED = ".packed-parts"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


class StoreWriter:
    """Writes a store, part by part; killed anywhere, the same calls go on where it stopped.

    Several writers (ranks) may share one path. Use as

        writer = Writer(path, manifest, videos)
        for video in mine:
            if not writer.has(video.id):
                writer.add(Row(...), visual_TxNxD, text_TxE)
        writer.pack()

    Args:
      path: the store's folder.
      manifest: of the store; an unfinished or finished store at `path` must have the same.
      videos: the annotations to keep with the store; `pack` waits for all of them.
      made_of: by video id, what its row is to say it was made of. What says something else is
        dropped, to be written again; what says nothing stays. None: everything stays.

    Attributes:
      outdated: ids of the videos that were dropped so.

    Raises:
      UserError: `path` holds a store of another manifest.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        manifest: Manifest,
        videos: annotations.Annotations,
        made_of: Mapping[str, str] | None = None,
    ):
        self.path = pathlib.Path(path)
        self.manifest = manifest
        self.videos = videos
        self.outdated: list[str] = []
        self._made_of = made_of or {}
        self._parts = self.path / "parts"
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._start()

    def _start(self) -> None:
        manifest_path = self.path / "manifest.json"
        if manifest_path.exists():
            found = read_manifest(self.path)
            differences = self.manifest.differences(found)
            # Within one store nothing stands in for anything.
            differences += [
                f"{field} {ours} against {theirs}"
                for field in ("dtype", "text")
                if (ours := getattr(self.manifest, field)) != (theirs := getattr(found, field))
                and not any(line.startswith(field) for line in differences)
            ]
            if differences:
                raise UserError(
                    f"{self.path}: expected the store begun here to be of the same making, found "
                    f"{'; '.join(differences)}; give another --out or remove it"
                )
        clear_leftovers(self.path)
        if self._is_finished():
            return
        self._parts.mkdir(exist_ok=True)
        self._drop_outdated_parts()
        self._unpack()
        write_atomically(manifest_path, _json(self.manifest.to_json()))
        write_atomically(self.path / "videos.json", _json(self.videos.to_json()))

    def _is_finished(self) -> bool:
        if self._parts.exists() or not (self.path / "videos.json").exists():
            return False
        kept = annotations.load(self.path / "videos.json")
        same_videos = dict(kept.videos) == dict(self.videos.videos)
        return same_videos and not outdated(self.path, self._made_of)

    def _drop_outdated_parts(self) -> None:
        for video_id in self._made_of:
            part = self._part(video_id).with_suffix(".json")
            if not part.exists():
                continue
            if _is_outdated(read_json(part).get("made_of"), self._made_of[video_id]):
                part.unlink()
                self.outdated.append(video_id)

    def _unpack(self) -> None:
        """Turns shards back into parts: videos changed, or packing was cut short."""
        self.outdated = sorted({*self.outdated, *outdated(self.path, self._made_of)})
        for shard in shard_paths(self.path):
            for row, visual_TxNxD, text_TxE in read_shard(shard):
                if _is_outdated(row.made_of, self._made_of.get(row.id)):
                    continue
                if row.id in self.videos.videos and not self.has(row.id):
                    self.add(row, visual_TxNxD, text_TxE)
        # The .jsonl files go first: without them the rest is no shard.
        for path in (*shard_paths(self.path), *self.path.glob("shard-*.npy")):
            path.unlink()
        # What couldn't be read then is tried again now.
        (self.path / "quarantine.jsonl").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time starts or packs; the lock dies with its process."""
        with open(self.path / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _part(self, video_id: str) -> pathlib.Path:
        return self._parts / digests.of_text(video_id)[:32]

    def has(self, video_id: str) -> bool:
        """Whether this video is done, be it encoded or put in quarantine."""
        # In this order: another writer may be packing in between.
        return self._part(video_id).with_suffix(".json").exists() or not self._parts.exists()

    def add(self, row: Row, visual_TxNxD: np.ndarray, text_TxE: np.ndarray | None = None) -> None:
        """Writes one video's part. `row`'s offset and sha256 are filled in here.

        Args:
          row: the video's line.
          visual_TxNxD: T snippets, N crops, D features; cast to the manifest's dtype.
          text_TxE: one text row a snippet, where the manifest has text.

        Raises:
          ValueError: shapes that don't fit the manifest, or values that aren't finite.
        """
        visual_TxNxD = np.ascontiguousarray(visual_TxNxD, dtype=self.manifest.dtype)
        if text_TxE is not None:
            text_TxE = np.ascontiguousarray(text_TxE, dtype=self.manifest.dtype)
        faults = row_faults(row, visual_TxNxD, text_TxE, self.manifest)
        if faults:
            raise ValueError(f"video {row.id!r}: {'; '.join(faults)}")
        row = dataclasses.replace(row, offset=0, sha256=rows_hash(visual_TxNxD, text_TxE))
        part = self._part(row.id)
        write_atomically(part.with_suffix(".npy"), _npy(visual_TxNxD))
        if text_TxE is not None:
            write_atomically(part.with_suffix(".text.npy"), _npy(text_TxE))
        # Last: the part counts from here on.
        write_atomically(part.with_suffix(".json"), _json(dataclasses.asdict(row)))

    def quarantine(self, video_id: str, reason: str) -> None:
        """Notes a video that can't be encoded, so that it is never silently absent."""
        entry = {"id": video_id, "reason": reason}
        if video_id in self._made_of:
            entry["made_of"] = self._made_of[video_id]
        write_atomically(self._part(video_id).with_suffix(".json"), _json(entry))

    def pack(self, shard_bytes: int = SHARD_BYTES) -> bool:
        """Packs the parts into shards once every video is there.

        Args:
          shard_bytes: a shard is closed when its visual rows pass this size.

        Returns:
          Whether the store is finished; False while other writers' videos are missing.
        """
        with self._locked():
            clear_leftovers(self.path)
            if not self._parts.exists():
                return True
            if not all(self.has(video_id) for video_id in self.videos.videos):
                return False
            rows, quarantined = self._read_parts()
            for index, shard_rows in enumerate(self._split(rows, shard_bytes)):
                self._write_shard(index, shard_rows)
            lines = "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in quarantined)
            if lines:
                write_atomically(self.path / "quarantine.jsonl", lines.encode())
            # Renamed before it is emptied: a half-emptied parts/ would look like lost work.
            os.rename(self._parts, self.path / _EMPTIED)
            clear_leftovers(self.path)
            return True

    def _read_parts(self) -> tuple[list[Row], list[dict[str, str]]]:
        rows, quarantined = [], []
        for video_id in sorted(self.videos.videos):
            entry = read_json(self._part(video_id).with_suffix(".json"))
            if "reason" in entry:
                quarantined.append(entry)
            else:
                rows.append(Row(**entry))
        return rows, quarantined

    def _split(self, rows: Sequence[Row], shard_bytes: int) -> Iterator[list[Row]]:
        row_bytes = (
            self.manifest.crops["count"]
            * self.manifest.dim
            * np.dtype(self.manifest.dtype).itemsize
        )
        shard, size = [], 0
        for row in rows:
            shard.append(dataclasses.replace(row, offset=size))
            size += row.num_snippets
            if size * row_bytes >= shard_bytes:
                yield shard
                shard, size = [], 0
        if shard:
            yield shard

    def _write_shard(self, index: int, rows: Sequence[Row]) -> None:
        shard = self.path / f"shard-{index:05d}.jsonl"
        kinds = ("visual", "text") if self.manifest.text else ("visual",)
        for kind in kinds:
            suffix = ".npy" if kind == "visual" else ".text.npy"
            parts = (
                np.load(self._part(row.id).with_suffix(suffix), allow_pickle=False) for row in rows
            )
            _write_rows(array_path(shard, kind), parts, sum(row.num_snippets for row in rows))
        lines = "".join(json.dumps(dataclasses.asdict(row), sort_keys=True) + "\n" for row in rows)
        write_atomically(shard, lines.encode())


def _write_rows(path: pathlib.Path, parts: Iterator[np.ndarray], num_rows: int) -> None:
    """Concatenates arrays into one .npy without holding them all in memory."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    # Written, not mapped: on a full disk a mapping ends in a signal instead of an error.
    with open(partial, "xb") as file:
        for index, part in enumerate(parts):
            if not index:
                header = np.lib.format.header_data_from_array_1_0(part)
                header["shape"] = (num_rows, *part.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(part).data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def clear_leftovers(path: pathlib.Path) -> None:
    """Removes what packing leaves behind when it is killed, which may be as large as the store.

    Args:
      path: the store's folder, finished or locked.
    """
    shutil.rmtree(path / _EMPTIED, ignore_errors=True)
    for partial in path.glob(".shard-*.partial"):
        partial.unlink(missing_ok=True)


def outdated(path: str | os.PathLike, made_of: Mapping[str, str]) -> list[str]:
    """Ids of packed videos that say they were made of something else than told, sorted."""
    path = pathlib.Path(path)
    found = {row.id: row.made_of for shard in shard_paths(path) for row in read_rows(shard)}
    found |= {entry["id"]: entry.get("made_of") for entry in read_quarantine(path)}
    return sorted(i for i, noted in found.items() if _is_outdated(noted, made_of.get(i)))


def _is_outdated(noted: str | None, made_of: str | None) -> bool:
    return noted is not None and made_of is not None and noted != made_of
