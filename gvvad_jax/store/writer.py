"""Writing a feature store: a part for each video, then shards. numpy only.

While a store is written, each video is one part in parts/, which appears whole and is the unit of
resuming. Packing puts the parts into shards by sorted id, so that shards depend neither on the
number of writers nor on how often they were killed.

More than 350 lines by its docstrings: writing, resuming, growing and repairing share one rule of
which videos are done.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
import types
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, folders, packing, salvage, sealing
from gvvad_jax.store.features import checked_rows, described_video, features_manifest
from gvvad_jax.store.files import read_json, write_atomically, write_json
from gvvad_jax.store.format import (
    Manifest,
    Quarantined,
    Row,
    row_faults,
    rows_hash,
    shard_paths,
    unnamed,
)
from gvvad_jax.store.ids import require_ids
from gvvad_jax.store.packing import SHARD_BYTES
from gvvad_jax.store.parts import Parts
from gvvad_jax.store.reader import read_quarantine, read_rows

_EMPTIED = ".packed-parts"


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
        self._parts = Parts(self.path / "parts")
        folders.claim(self.path, "store", signs=sealing.SIGNS)
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
        folders.require_own(path, "store", flag="path", signs=sealing.SIGNS)
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
        if self._parts.exist():
            with self._locked():
                write_json(self.path / "videos.json", self.videos.to_json(), sort_keys=True)
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
        group: str | None = None,
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
          group: what it shares with other videos, e.g. its camera; a group is never divided
            between training and validation.
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
            group=group,
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
        near = {f"{row.id}.npy", row.id.removesuffix(".npy")} & self.videos.videos.keys()
        require_ids({row.id, *near}, "add_video")
        digest = rows_hash(
            self._cast(visual_TxNxD), None if text_TxE is None else self._cast(text_TxE)
        )
        wanted = dataclasses.replace(row, sha256=digest)
        if not self._parts.exist():
            same_video = self.videos.videos.get(row.id) == annotation
            if same_video and self._packed_rows().get(row.id) == wanted:
                return
            with self._locked():
                self._reopen(())
        self.videos = annotations.Annotations(
            {**self.videos.videos, row.id: annotation}, self.videos.path
        )
        if self._parts.read(row.id) != wanted:
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
        clear_leftovers(self.path)
        contents = self._existing()
        faults = []
        if contents:
            self._require_same(contents.manifest)
            if not self._parts.exist():
                faults = salvage.faults(self.path, contents)
        if faults:
            print(
                f"{self.path}: expected a sound store, found {len(faults)} faults, first "
                f"{faults[0]}; the videos that it concerns are made again",
                file=sys.stderr,
            )
        if faults or not contents or not self._is_finished():
            files = contents.files if contents else None
            self._reopen(sealing.faults(self.path, files) if faults else ())
        if contents and contents.manifest.weights_known_by == "ends" and self.outdated:
            print(
                f"{self.path}: a store of format version 1 knew videos by their size and ends "
                f"alone: {len(self.outdated)} of them are encoded again",
                file=sys.stderr,
            )
            self.outdated = []

    def _existing(self) -> sealing.Contents | None:
        """Reads the manifest of the store here; without it nobody knows what its rows are."""
        if not (self.path / "manifest.json").exists():
            self._forget_rows()
            return None
        try:
            return sealing.read(self.path)
        except sealing.Damaged as error:
            print(f"{error}; all its videos are made again", file=sys.stderr)
            self._forget_rows()
            return None

    def _forget_rows(self) -> None:
        shutil.rmtree(self._parts.folder, ignore_errors=True)
        self._remove_shards()

    def _remove_shards(self) -> None:
        # The .jsonl files go first: without them the arrays don't count as shards.
        for path in (*shard_paths(self.path), *self.path.glob("shard-*.npy")):
            path.unlink()
        # Videos that couldn't be read are tried again.
        (self.path / "quarantine.jsonl").unlink(missing_ok=True)

    def _require_same(self, existing: Manifest) -> None:
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

    def _reopen(self, damaged: Collection[str]) -> None:
        """Begins a store, or turns a finished one back into parts.

        Args:
          damaged: names of the shards' .jsonl that aren't to be trusted.
        """
        self._parts.folder.mkdir(exist_ok=True)
        self._drop_outdated_parts()
        self._unpack(damaged)
        # Only the bank is kept, and so is its digest.
        files = self._sealed()
        bank = {name: files[name] for name in sealing.BANK if name in files}
        write_atomically(self.path / "manifest.json", sealing.to_bytes(self.manifest, bank))
        write_json(self.path / "videos.json", self.videos.to_json(), sort_keys=True)

    def _sealed(self) -> Mapping[str, str]:
        """Returns the digests of the manifest here; none without one, or in one of version 1."""
        if not (self.path / "manifest.json").exists():
            return {}
        try:
            return sealing.read(self.path).files or {}
        except sealing.Damaged:  # It is about to be written again.
            return {}

    def _is_finished(self) -> bool:
        if self._parts.exist() or not (self.path / "videos.json").exists():
            return False
        try:
            kept = annotations.load(self.path / "videos.json")
        except UserError:  # It is written again, of the list at hand.
            return False
        same_videos = dict(kept.videos) == dict(self.videos.videos)
        return same_videos and not salvage.outdated(self.path, self._made_of)

    def _drop_outdated_parts(self) -> None:
        for video_id, made_of in self._made_of.items():
            part = self._parts.read(video_id)
            if part and salvage.is_outdated(part.made_of, made_of):
                self._parts.drop(video_id)
                self.outdated.append(video_id)

    def _unpack(self, damaged: Collection[str]) -> None:
        """Turns shards back into parts when videos changed or packing was cut short."""
        made_of, outdated = self._made_of, set(self.outdated)
        faults: list[str] = []
        rows = salvage.sound_rows(self.path, self.manifest, damaged, faults.append)
        for row, visual_TxNxD, text_TxE in rows:
            if salvage.is_outdated(row.made_of, made_of.get(row.id)):
                outdated.add(row.id)
            elif row.id in self.videos.videos and not self.has(row.id):
                self.add(row, visual_TxNxD, text_TxE)
        with contextlib.suppress(UserError):  # A damaged one is written again.
            entries = read_quarantine(self.path)
            outdated |= {e.id for e in entries
                         if salvage.is_outdated(e.made_of, made_of.get(e.id))}  # fmt: skip
        self.outdated = sorted(outdated)
        self._remove_shards()

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        """Lets one writer at a time start or pack; the lock ends with its process."""
        return folders.locked(self.path / ".lock", busy=None)

    def has(self, video_id: str) -> bool:
        """Returns whether this video is done, encoded or quarantined."""
        # In this order, because another writer may pack between the two checks.
        return video_id in self._parts or not self._parts.exist()

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
        row = dataclasses.replace(row, offset=0, sha256="")
        faults = row_faults(row, visual_TxNxD, text_TxE, self.manifest)
        if faults:
            raise ValueError(f"video {row.id!r}: {'; '.join(faults)}")
        row = dataclasses.replace(row, sha256=rows_hash(visual_TxNxD, text_TxE))
        self._parts.write(row, visual_TxNxD, text_TxE)

    def _cast(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array, dtype=self.manifest.dtype)

    def quarantine(self, video_id: str, reason: str) -> None:
        """Records that a video can't be encoded, so that it is never silently absent."""
        made_of = self._made_of.get(video_id)
        self._parts.quarantine(Quarantined(id=video_id, reason=reason, made_of=made_of))

    def pack(self, shard_bytes: int = SHARD_BYTES) -> bool:
        """Packs the parts into shards once every video is there.

        Args:
          shard_bytes: a shard is closed when its visual rows pass this size.

        Returns:
          Whether the store is finished; False while other writers' videos are missing.

        Raises:
          UserError: a part is damaged, which is removed, or the bank is.
        """
        with self._locked():
            clear_leftovers(self.path)
            if not self._parts.exist():
                self._seal()
                return True
            if not all(self.has(video_id) for video_id in self.videos.videos):
                return False
            entries = [self._read_part(video_id) for video_id in sorted(self.videos.videos)]
            packing.write_shards(self.path, self.manifest, self._parts, entries, shard_bytes)
            self._seal()
            # Renamed first, because a half-emptied parts/ would look like an unfinished store.
            os.rename(self._parts.folder, self.path / _EMPTIED)
            clear_leftovers(self.path)
            return True

    def _seal(self) -> None:
        """Writes the manifest with the digests of the index and the bank, unless it has them.

        Raises:
          UserError: a file of a finished store, or a bank, isn't what the manifest says; only
            a bank that was written whole may take the place of another.
        """
        before, now = self._sealed(), sealing.covered(self.path)
        if before == now:
            return
        changed = {name for name in before if before[name] != now.get(name)}
        removed = not any(name in now for name in sealing.BANK)
        if changed <= set(sealing.BANK) and (removed or sealing.is_consistent_bank(self.path)):
            changed = set()
        if changed:
            name = min(changed)
            remedy = (
                "put it back; for another bank remove bank.npy and bank.json, run this again, and "
                "copy the new ones then"
                if name in sealing.BANK
                else sealing.REMEDY
            )
            raise UserError(
                f"{self.path / name}: expected what the store was finished with, found another "
                f"content; {remedy}"
            )
        write_atomically(self.path / "manifest.json", sealing.to_bytes(self.manifest, now))

    def _read_part(self, video_id: str) -> Row | Quarantined:
        part = self._parts.read(video_id)
        if part is None:
            raise self._parts.damaged(video_id, "its line can't be read")
        return part


def clear_leftovers(path: pathlib.Path) -> None:
    """Removes the files that a killed packing leaves behind, which may be as large as the store.

    Args:
      path: the store's folder, finished or locked.
    """
    shutil.rmtree(path / _EMPTIED, ignore_errors=True)
    for partial in path.glob(".shard-*.partial"):
        partial.unlink(missing_ok=True)
    folders.clear_litter(path)
    folders.clear_litter(path / "parts")
