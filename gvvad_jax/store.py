"""The feature store: what the PyTorch side writes and the JAX side reads. numpy only.

    python -m gvvad_jax.store PATH

validates a store and prints a summary. While encoding runs, each video is one part in parts/,
which appears whole and is the unit of resuming; packing puts the parts into shards by sorted id,
so shards depend neither on the number of writers nor on how often they were killed. A store with
a parts/ folder is unfinished and no reader takes it.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import operator
import os
import pathlib
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax import annotations
from gvvad_jax.command import UserError, run_command

FORMAT_VERSION = 1
SHARD_BYTES = 1 << 30
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


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all: temporary name, flush, rename."""
    path = pathlib.Path(path)
    # Not by process ids: those of two pods that share a folder may be the same.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


class Writer:
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
            if _is_outdated(annotations.read_json(part).get("made_of"), self._made_of[video_id]):
                part.unlink()
                self.outdated.append(video_id)

    def _unpack(self) -> None:
        """Turns shards back into parts: videos changed, or packing was cut short."""
        self.outdated = sorted({*self.outdated, *outdated(self.path, self._made_of)})
        for shard in _shard_paths(self.path):
            for row, visual_TxNxD, text_TxE in _shard_rows(shard):
                if _is_outdated(row.made_of, self._made_of.get(row.id)):
                    continue
                if row.id in self.videos.videos and not self.has(row.id):
                    self.add(row, visual_TxNxD, text_TxE)
        # The .jsonl files go first: without them the rest is no shard.
        for path in (*_shard_paths(self.path), *self.path.glob("shard-*.npy")):
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
        return self._parts / hashlib.sha256(video_id.encode()).hexdigest()[:32]

    def has(self, video_id: str) -> bool:
        """Whether this video is done, be it encoded or put in quarantine."""
        if not self._parts.exists():
            return True
        return self._part(video_id).with_suffix(".json").exists()

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
        faults = _row_faults(row, visual_TxNxD, text_TxE, self.manifest)
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
            emptied = self.path / ".packed-parts"
            shutil.rmtree(emptied, ignore_errors=True)
            os.rename(self._parts, emptied)
            shutil.rmtree(emptied)
            return True

    def _read_parts(self) -> tuple[list[Row], list[dict[str, str]]]:
        rows, quarantined = [], []
        for video_id in sorted(self.videos.videos):
            entry = annotations.read_json(self._part(video_id).with_suffix(".json"))
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
            _write_rows(_array_path(shard, kind), parts, sum(row.num_snippets for row in rows))
        lines = "".join(json.dumps(dataclasses.asdict(row), sort_keys=True) + "\n" for row in rows)
        write_atomically(shard, lines.encode())


def _write_rows(path: pathlib.Path, parts: Iterator[np.ndarray], num_rows: int) -> None:
    """Concatenates arrays into one .npy without holding them all in memory."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    out, start = None, 0
    for part in parts:
        if out is None:
            shape = (num_rows, *part.shape[1:])
            out = np.lib.format.open_memmap(partial, mode="w+", dtype=part.dtype, shape=shape)
        out[start : start + len(part)] = part
        start += len(part)
    out.flush()
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _shard_paths(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path.glob("shard-*.jsonl"))


def _array_path(shard: pathlib.Path, kind: str) -> pathlib.Path:
    return shard.with_suffix(f".{kind}.npy")


def _load_array(path: pathlib.Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected an array, found something numpy can't open ({error}); encode again"
        ) from error


def _read_rows(shard: pathlib.Path) -> list[Row]:
    rows = []
    for number, line in enumerate(shard.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(Row(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{shard}: line {number}: expected one video's row, found {line[:60]!r} ({error}); "
                "encode again"
            ) from error
    return rows


def _shard_rows(
    shard: pathlib.Path,
) -> Iterator[tuple[Row, np.ndarray, np.ndarray | None]]:
    visual = _load_array(_array_path(shard, "visual"))
    text_path = _array_path(shard, "text")
    text = _load_array(text_path) if text_path.exists() else None
    for row in _read_rows(shard):
        span = slice(row.offset, row.offset + row.num_snippets)
        yield row, visual[span], None if text is None else text[span]


def _read_quarantine(path: pathlib.Path) -> list[dict[str, str]]:
    path = path / "quarantine.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def outdated(path: str | os.PathLike, made_of: Mapping[str, str]) -> list[str]:
    """Ids of packed videos that say they were made of something else than told, sorted."""
    path = pathlib.Path(path)
    found = {row.id: row.made_of for shard in _shard_paths(path) for row in _read_rows(shard)}
    found |= {entry["id"]: entry.get("made_of") for entry in _read_quarantine(path)}
    return sorted(i for i, noted in found.items() if _is_outdated(noted, made_of.get(i)))


def _is_outdated(noted: str | None, made_of: str | None) -> bool:
    return noted is not None and made_of is not None and noted != made_of


def _row_faults(
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
        self._arrays: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
        for shard in _shard_paths(self.path):
            self._open(shard)
        self.quarantined = {e["id"]: e["reason"] for e in _read_quarantine(self.path)}

    def _open(self, shard: pathlib.Path) -> None:
        visual = _load_array(_array_path(shard, "visual"))
        text = _load_array(_array_path(shard, "text")) if self.manifest.text else None
        for row in _read_rows(shard):
            if row.id in self.rows:
                raise UserError(f"{shard}: video {row.id!r}: expected once, found twice")
            if row.offset + row.num_snippets > len(visual):
                raise UserError(
                    f"{shard}: video {row.id!r}: expected {row.offset + row.num_snippets} rows, "
                    f"found {len(visual)}; the shard is cut short: encode again"
                )
            self.rows[row.id] = row
            self._arrays[row.id] = (visual, text)

    def visual(self, video_id: str) -> np.ndarray:
        """A video's visual rows, a view [T, crops, dim] of the mapped shard."""
        row = self.rows[video_id]
        return self._arrays[video_id][0][row.offset : row.offset + row.num_snippets]

    def text(self, video_id: str) -> np.ndarray | None:
        """A video's text rows, a view [T, text_dim], or None."""
        row, text = self.rows[video_id], self._arrays[video_id][1]
        return None if text is None else text[row.offset : row.offset + row.num_snippets]

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
        for shard in _shard_paths(self.path):
            expected_offset = 0
            for row, visual_TxNxD, text_TxE in _shard_rows(shard):
                found = _row_faults(row, visual_TxNxD, text_TxE, self.manifest)
                if row.offset != expected_offset:
                    found.append(f"expected offset {expected_offset}, found {row.offset}")
                if rows_hash(visual_TxNxD, text_TxE) != row.sha256:
                    found.append(f"expected rows of sha256 {row.sha256[:12]}, found others")
                expected_offset = row.offset + row.num_snippets
                faults += [f"{shard.name}: video {row.id!r}: {fault}" for fault in found]
            if expected_offset != len(_load_array(_array_path(shard, "visual"))):
                faults.append(f"{shard.name}: expected {expected_offset} rows, found others")
        known = set(self.rows) | set(self.quarantined)
        for video_id in sorted(set(self.videos.videos) ^ known):
            faults.append(f"videos.json: video {video_id!r}: expected in both list and shards")
        return faults

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
