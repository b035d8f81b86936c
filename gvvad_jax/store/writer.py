"""Writing a feature store: a part for each video, then shards. numpy only.

While a store is written, each video is one part in parts/, which appears whole and is the unit of
resuming. Packing puts the parts into shards by sorted id, so that shards depend neither on the
number of writers nor on how often they were killed.

More than 400 lines, because writing, resuming, growing and packing share one rule of which videos
are done.
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
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.features import checked_rows, described_video, features_manifest
from gvvad_jax.store.files import read_json, write_atomically
from gvvad_jax.store.format import (
    Manifest,
    Row,
    array_path,
    row_faults,
    rows_hash,
    shard_paths,
    unnamed,
)
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
    """Writes a store video by video; after a kill, the same calls resume where it stopped.

    To write features of your own:

        with StoreWriter.for_features("STORE", dim=768) as writer:
            writer.add_video("a", features_TxD, label=1, split="train")

    An encoder knows its videos beforehand and fills in the rows itself. Its writers (ranks) may
    share one path:

        writer = StoreWriter(path, manifest, videos)
        for video_id in ids_of_this_rank:
            if not writer.has(video_id):
                writer.add(Row(...), visual_TxNxD, text_TxE)
        writer.pack()

    Args:
      path: the store's folder.
      manifest: the store's manifest; an unfinished or finished store at `path` must have the same.
      videos: the annotations to keep with the store; `pack` waits for all of them.
      made_of: by video id, the digest that its row must have as `made_of`. A row with another one
        is dropped, to be written again; a row without one stays. None: all rows stay.

    Attributes:
      outdated: ids of the videos whose rows were dropped.

    Raises:
      UserError: `path` holds a store of another manifest.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        manifest: Manifest,
        videos: annotations.Annotations,
        made_of: Mapping[str, str] | None = None,
    ):
        self.path = pathlib.Path(path)
        self.manifest = manifest
        self.videos = videos
        self.outdated: list[str] = []
        self._packed: dict[str, Row] | None = None
        self._made_of = made_of or {}
        self._parts = self.path / "parts"
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._start()

    @classmethod
    def for_features(
        cls,
        path: str | os.PathLike[str],
        *,
        dim: int,
        crops: int = 1,
        snippet_frames: int = 16,
        text_dim: int = 0,
        encoder: str = "features",
        text_encoder: str = "text",
        dtype: str = "float32",
        alignment: str = "exact",
    ) -> "StoreWriter":
        """Opens a store for features of one's own, to be added by `add_video` in a `with` block.

        The store is finished when the block ends without an error. Running the same script again
        resumes it; videos that a store has already stay in it. One process at a time may write.

        Args:
          path: the store's folder.
          dim: width D of the visual features.
          crops: crops N of each snippet, the same for all videos.
          snippet_frames: frames of the video that a snippet covers; snippets don't overlap.
          text_dim: width E of the text features; 0 for a store without text.
          encoder: name of what made the visual features. Stores of one run must agree on it.
          text_encoder: name of what made the text features.
          dtype: float32 or float16, how features are stored.
          alignment: "exact" if row k covers the frames from k snippet_frames on, as published
            features do, of which one row may be missing at a video's end; "even" if a video's rows
            share its time evenly, as a fixed number of segments does.

        Raises:
          UserError: a value out of range, or `path` holds a store of other settings.
        """
        manifest = features_manifest(
            dim=dim,
            crops=crops,
            snippet_frames=snippet_frames,
            text_dim=text_dim,
            encoder=encoder,
            text_encoder=text_encoder,
            dtype=dtype,
            alignment=alignment,
        )
        listed = pathlib.Path(path) / "videos.json"
        videos: Mapping[str, annotations.VideoAnnotation] = {}
        # A store that was begun and has no video yet lists none, which no other reader takes.
        if listed.exists() and read_json(listed) != {"videos": {}}:
            videos = annotations.load(listed).videos
        return cls(path, manifest, annotations.Annotations(videos, str(listed)))

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()

    def finish(self) -> None:
        """Finishes the store of a writer by `for_features`; the end of its `with` block does.

        Raises:
          UserError: the store has no video.
        """
        if not self.videos.videos:
            raise UserError(
                f"{self.path}: expected at least one video, found none; add some with add_video"
            )
        missing = [video_id for video_id in self.videos.videos if not self.has(video_id)]
        if missing:
            raise UserError(
                f"{self.path}: expected every video that was listed before, found {missing[0]!r} "
                f"and {len(missing) - 1} more missing; add them again"
            )
        if self._parts.exists():
            with self._locked():
                write_atomically(self.path / "videos.json", _json(self.videos.to_json()))
        self.pack()
        self._packed = None

    def add_video(
        self,
        video_id: str,
        features: np.ndarray,
        *,
        label: int,
        split: str,
        text: np.ndarray | None = None,
        fps: float = 25.0,
        num_frames: int | None = None,
        abnormal_frames: Sequence[Sequence[int]] | None = None,
        class_name: str | None = None,
        source: str = "real",
    ) -> None:
        """Adds one video; a video of the same id and other content is replaced.

        Args:
          video_id: its name.
          features: its visual features, [T, D] or [T, N, D]: T snippets of N crops.
          label: 1 abnormal, 0 normal.
          split: train, validation or test.
          text: its text features [T, E], in a store with text.
          fps: its frames per second.
          num_frames: its number of frames (default: T times snippet_frames).
          abnormal_frames: [start, end) pairs of frames. Abnormal test videos need them for
            frame-level measures.
          class_name: its class, e.g. "Fighting".
          source: real, or synthetic for a generated video.

        Raises:
          UserError: a value of another type, shape or range; the message names it and the video.
        """
        visual_TxNxD, text_TxE = checked_rows(video_id, features, text, self.manifest)
        annotation, row = described_video(
            video_id,
            len(visual_TxNxD),
            self.manifest,
            label=label,
            split=split,
            fps=fps,
            num_frames=num_frames,
            abnormal_frames=abnormal_frames,
            class_name=class_name,
            source=source,
        )
        self._put(annotation, row, visual_TxNxD, text_TxE)

    def _put(
        self,
        annotation: annotations.VideoAnnotation,
        row: Row,
        visual_TxNxD: np.ndarray,
        text_TxE: np.ndarray | None,
    ) -> None:
        """Writes a video unless the store has it with the same content already."""
        digest = rows_hash(
            self._cast(visual_TxNxD), None if text_TxE is None else self._cast(text_TxE)
        )
        wanted = dataclasses.replace(row, sha256=digest)
        if not self._parts.exists():
            same_video = self.videos.videos.get(row.id) == annotation
            if same_video and self._packed_rows().get(row.id) == wanted:
                return
            with self._locked():
                self._reopen()
        self.videos = annotations.Annotations(
            {**self.videos.videos, row.id: annotation}, self.videos.path
        )
        part = self._part(row.id).with_suffix(".json")
        if not part.exists() or Row(**read_json(part)) != wanted:
            # Removed first: killed halfway, its old line must not stand for new rows.
            part.unlink(missing_ok=True)
            self.add(row, visual_TxNxD, text_TxE)

    def _packed_rows(self) -> dict[str, Row]:
        """The rows of a finished store by id, as parts have them; read once."""
        if self._packed is None:
            self._packed = {
                row.id: dataclasses.replace(row, offset=0)
                for shard in shard_paths(self.path)
                for row in read_rows(shard)
            }
        return self._packed

    def _start(self) -> None:
        manifest_path = self.path / "manifest.json"
        if manifest_path.exists():
            existing = read_manifest(self.path)
            differences = self.manifest.differences(existing)
            # Two stores may differ in these, the rows of one store may not.
            differences += [
                f"{field} {wanted} against {present}"
                for field in ("dtype", "text", "snippet")
                if unnamed(wanted := getattr(self.manifest, field))
                != unnamed(present := getattr(existing, field))
                and not any(line.startswith(field) for line in differences)
            ]
            if differences:
                raise UserError(
                    f"{self.path}: expected the store here to have the same settings, found "
                    f"{'; '.join(differences)}; give another folder or remove this one"
                )
        clear_leftovers(self.path)
        if not self._is_finished():
            self._reopen()

    def _reopen(self) -> None:
        """Begins a store, or turns a finished one back into parts."""
        self._parts.mkdir(exist_ok=True)
        self._drop_outdated_parts()
        self._unpack()
        write_atomically(self.path / "manifest.json", _json(self.manifest.to_json()))
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
        """Turns shards back into parts when videos changed or packing was cut short."""
        self.outdated = sorted({*self.outdated, *outdated(self.path, self._made_of)})
        for shard in shard_paths(self.path):
            for row, visual_TxNxD, text_TxE in read_shard(shard):
                if _is_outdated(row.made_of, self._made_of.get(row.id)):
                    continue
                if row.id in self.videos.videos and not self.has(row.id):
                    self.add(row, visual_TxNxD, text_TxE)
        # The .jsonl files go first: without them the arrays don't count as shards.
        for path in (*shard_paths(self.path), *self.path.glob("shard-*.npy")):
            path.unlink()
        # Videos that couldn't be read are tried again.
        (self.path / "quarantine.jsonl").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one writer at a time start or pack; the lock ends with its process."""
        with open(self.path / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _part(self, video_id: str) -> pathlib.Path:
        return self._parts / digests.of_text(video_id)[:32]

    def has(self, video_id: str) -> bool:
        """Returns whether this video is done, encoded or quarantined."""
        # In this order, because another writer may pack between the two checks.
        return self._part(video_id).with_suffix(".json").exists() or not self._parts.exists()

    def add(self, row: Row, visual_TxNxD: np.ndarray, text_TxE: np.ndarray | None = None) -> None:
        """Writes one video's part.

        Args:
          row: the video's line; its offset and sha256 are filled in here.
          visual_TxNxD: T snippets, N crops, D features; cast to the manifest's dtype.
          text_TxE: one text row for each snippet, if the manifest has text.

        Raises:
          ValueError: shapes that don't fit the manifest, or values that aren't finite.
        """
        visual_TxNxD = self._cast(visual_TxNxD)
        if text_TxE is not None:
            text_TxE = self._cast(text_TxE)
        faults = row_faults(row, visual_TxNxD, text_TxE, self.manifest)
        if faults:
            raise ValueError(f"video {row.id!r}: {'; '.join(faults)}")
        row = dataclasses.replace(row, offset=0, sha256=rows_hash(visual_TxNxD, text_TxE))
        part = self._part(row.id)
        write_atomically(part.with_suffix(".npy"), _npy(visual_TxNxD))
        if text_TxE is not None:
            write_atomically(part.with_suffix(".text.npy"), _npy(text_TxE))
        # Written last: `has` takes it for the sign of a whole part.
        write_atomically(part.with_suffix(".json"), _json(dataclasses.asdict(row)))

    def _cast(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, dtype=self.manifest.dtype)

    def quarantine(self, video_id: str, reason: str) -> None:
        """Records that a video can't be encoded, so that it is never silently absent."""
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
            # Renamed first, because a half-emptied parts/ would look like an unfinished store.
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
    """Concatenates arrays into one .npy file without holding them all in memory."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    # Written, not mapped: on a full disk a mapped file ends the process with a signal.
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
    """Removes the files that a killed packing leaves behind, which may be as large as the store.

    Args:
      path: the store's folder, finished or locked.
    """
    shutil.rmtree(path / _EMPTIED, ignore_errors=True)
    for partial in path.glob(".shard-*.partial"):
        partial.unlink(missing_ok=True)


def outdated(path: str | os.PathLike[str], made_of: Mapping[str, str]) -> list[str]:
    """Sorted ids of the packed videos whose `made_of` is another one than given."""
    path = pathlib.Path(path)
    packed = {row.id: row.made_of for shard in shard_paths(path) for row in read_rows(shard)}
    packed |= {entry["id"]: entry.get("made_of") for entry in read_quarantine(path)}
    return sorted(i for i, noted in packed.items() if _is_outdated(noted, made_of.get(i)))


def _is_outdated(noted: str | None, made_of: str | None) -> bool:
    return noted is not None and made_of is not None and noted != made_of
