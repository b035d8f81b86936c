"""Averages training videos into segments, once, and feeds them to the training steps.

Videos that fit go to the devices, and a step gathers its batch there. Otherwise a video is
segmented when a batch first needs it, and kept in mapped files in the run folder. A thread then
gathers each batch while the step before runs, so memory depends on the batch and not on the data.
"""

import concurrent.futures
import errno
import hashlib
import itertools
import json
import mmap
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np
import tqdm

from gvvad_jax.batches import Batch, Batches
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.parallel import ReadRows
from gvvad_jax.splits import Member
from gvvad_jax.standardisation import Standards
from gvvad_jax.step import PyTree, TrainingData
from gvvad_jax.store import digests
from gvvad_jax.store.files import write_atomically

# Arrays of all training videos have a multiple of so many rows.
ROWS = 256

# (kind, start, stop) -> features of a step's videos from number `start` to `stop`.
ReadKind = Callable[[str, int, int], np.ndarray]


class Source(Protocol):
    """Training videos: `Segments`, or `windows.Windows`."""

    shapes: dict[str, tuple[int, ...]]

    def at(self, step: int, videos_V: np.ndarray) -> ReadKind:
        """Returns what reads the features of the videos of step number `step`."""


class Placing(Protocol):
    """What places arrays on devices: a parallel.Runner."""

    def on_each(self, tree: PyTree) -> PyTree:
        """Copies arrays to each device."""

    def by_row(self, shape: tuple[int, ...], read_rows: ReadRows, at_least: int = 0) -> jax.Array:
        """Splits an array by rows over the devices."""


def segment(feat_TxD: np.ndarray, num_segments: int) -> np.ndarray:
    """Averages T snippets into S segments with borders floor(linspace(0, T, S + 1)).

    An empty segment takes the snippet at its left border. Source: RTFM's data protocol.

    Args:
      feat_TxD: any array with at least one snippet on the leading axis.
      num_segments: S, at least 1.

    Returns:
      float32 [S, ...].

    Raises:
      ValueError: there is no snippet, or no segment to make.
    """
    if not np.ndim(feat_TxD) or not len(feat_TxD):
        raise ValueError(
            f"feat_TxD: expected at least one snippet, found shape {list(np.shape(feat_TxD))}"
        )
    if num_segments < 1:
        raise ValueError(f"num_segments: expected at least 1, found {num_segments}")
    borders = np.linspace(0, len(feat_TxD), num_segments + 1, dtype=int)
    out = np.empty((num_segments, *feat_TxD.shape[1:]), np.float32)
    for i, (left, right) in enumerate(itertools.pairwise(borders)):
        out[i] = feat_TxD[left : max(right, left + 1)].mean(axis=0, dtype=np.float32)
    return out


class Segments:
    """The training videos of a run, segmented and standardised, by their index.

    Args:
      members: the videos.
      standards: standardisation of the visual features.
      config: the run's settings: number of segments, whether text is used.
      folder: folder of the mapped files that keep segmented videos; without it none are kept.

    Attributes:
      shapes: shape of one video's features by kind: `visual`; where it is used, `text`; and where
        the text stream takes other rows than are stored, `stream`.
    """

    def __init__(
        self,
        members: Sequence[Member],
        standards: Standards,
        config: TrainConfig,
        folder: pathlib.Path | None = None,
    ):
        manifest, num_videos = members[0].store.manifest, len(members)
        self._members, self._standards, self._segments = members, standards, config.segments
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.shapes["visual"] = (manifest.crops["count"], config.segments, manifest.dim)
        if config.uses_text and manifest.text:
            self.shapes["text"] = (config.segments, manifest.text["dim"])
        if standards.text:
            self.shapes["stream"] = self.shapes["text"]
        self._kept: dict[str, np.memmap] = {}
        if folder:
            shapes = {kind: (num_videos, *shape) for kind, shape in self.shapes.items()}
            self._kept = _map_files(folder, shapes | {"done": (num_videos,)}, self._identity())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def padded_rows(self) -> int:
        """Number of rows that arrays of all videos are padded to.

        So a run on a few videos more or fewer has arrays of the same shapes, for which nothing is
        compiled again.
        """
        return -(-len(self) // ROWS) * ROWS

    @property
    def num_bytes(self) -> int:
        """Bytes that the padded features of all videos take."""
        of_one = sum(4 * int(np.prod(shape)) for shape in self.shapes.values())
        return self.padded_rows * of_one

    def at(self, step: int, videos_V: np.ndarray) -> "ReadKind":
        """Returns what reads rows of these videos, which are the same at every step."""
        del step
        return lambda kind, start, stop: self.rows(kind, videos_V[start:stop])

    def rows(self, kind: str, videos_V: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns some videos' features, float32: `visual` [V, N, S, D], others [V, S, E]."""
        rows = np.empty((len(videos_V), *self.shapes[kind]), np.float32)
        # The progress bar appears only for long reads: a large store is read once.
        for i, video in enumerate(tqdm.tqdm(videos_V, desc=f"segment {kind}", delay=5)):
            rows[i] = self._kept_row(kind, video) if self._kept else self._segmented(kind, video)
        # Otherwise the process's memory would appear to grow with every video read.
        for kept in self._kept.values():
            if isinstance(kept.base, mmap.mmap):
                kept.base.madvise(mmap.MADV_DONTNEED)
        return rows

    def _kept_row(self, kind: str, video: int) -> np.ndarray:
        if not self._kept["done"][video]:
            for each in self._kept:
                _reserve(self._kept[each], video)
            for each in self.shapes:
                self._kept[each][video] = self._segmented(each, video)
            self._kept["done"][video] = 1
        return self._kept[kind][video]

    def _segmented(self, kind: str, video: int) -> np.ndarray:
        member = self._members[video]
        store, video_id = member.store, member.video.id
        if kind != "visual":
            text_TxE = store.text(video_id)
            assert text_TxE is not None
            segments = segment(text_TxE, self._segments)
            if kind == "stream":
                segments = self._standards.text_of(member).apply(segments)
        else:
            feat_SxNxD = segment(store.visual(video_id), self._segments)
            segments = self._standards.of(member).apply(feat_SxNxD).swapaxes(0, 1)
        store.release()
        return segments

    def _identity(self) -> str:
        """Returns a digest of everything that the segments depend on."""
        digest = hashlib.sha256(json.dumps(self.shapes, sort_keys=True).encode())
        of_stores: dict[pathlib.Path, str] = {}
        for member in self._members:
            path = member.store.path
            if path not in of_stores:
                standards = (self._standards.of(member), self._standards.text_of(member))
                of_stores[path] = digests.of_json([each.to_json() for each in standards])
            digest.update(f"{member.video.id} {member.row.sha256} {of_stores[path]}\n".encode())
        return digest.hexdigest()


def _map_files(
    folder: pathlib.Path, shapes: Mapping[str, tuple[int, ...]], identity: str
) -> dict[str, np.memmap]:
    """Maps files of these shapes: those that a killed run left of the same videos, else zeros."""
    path = folder / "of.txt"
    paths = {kind: folder / f"{kind}.npy" for kind in shapes}
    same = path.exists() and path.read_text() == identity
    if not (same and all(_has_shape(paths[kind], shape) for kind, shape in shapes.items())):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for kind, shape in shapes.items():
            np.lib.format.open_memmap(paths[kind], mode="w+", dtype=np.float32, shape=shape)
    arrays = {kind: np.load(each, mmap_mode="r+") for kind, each in paths.items()}
    # Written last, so that a folder left unfinished by a kill isn't used.
    write_atomically(path, identity.encode())
    return arrays


def _has_shape(path: pathlib.Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):  # The file was deleted or cut short.
        return False


def _reserve(mapped: np.memmap, video: int) -> None:
    """Reserves the disk's blocks for a video's row.

    Without this, writing to a mapped file on a full disk would kill the process by a signal.

    Raises:
      UserError: the disk is full.
    """
    assert mapped.filename is not None
    num_bytes = mapped.strides[0]
    if not hasattr(os, "posix_fallocate"):
        return
    with open(mapped.filename, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), mapped.offset + video * num_bytes, num_bytes)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                return
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{mapped.filename}: expected room for {num_bytes * len(mapped)} bytes of "
                "segmented videos, found the disk full; free some, give a --workdir elsewhere, or "
                "raise --device_gigabytes"
            ) from error


class Resident:
    """Feeds steps from the devices: all training videos are there, and a step gathers its own."""

    def __init__(self, segments: Segments, fixed: "Fixed", batches: Batches, runner: Placing):
        self._batches = batches
        videos_V = np.arange(len(segments))
        read = segments.at(0, videos_V)
        self._data = training_data(
            segments.shapes, read, fixed, videos_V, runner, segments.padded_rows
        )

    def at(self, step: int) -> tuple[TrainingData, Batch]:
        """Returns all training videos and the batch of step number `step`."""
        return self._data, self._batches.at(step)

    def close(self) -> None:
        pass


class Ahead:
    """Feeds steps from the host: the videos of one batch, gathered while the step before runs."""

    def __init__(self, segments: "Source", fixed: "Fixed", batches: Batches, runner: Placing):
        self._segments, self._fixed, self._batches, self._runner = segments, fixed, batches, runner
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: dict[int, concurrent.futures.Future[tuple[TrainingData, Batch]]] = {}

    def at(self, step: int) -> tuple[TrainingData, Batch]:
        """Returns the videos of step number `step`, and the batch as indices into them."""
        current = self._pending.pop(step, None) or self._pool.submit(self._gather, step)
        self._pending = {step + 1: self._pool.submit(self._gather, step + 1)}
        return current.result()

    def _gather(self, step: int) -> tuple[TrainingData, Batch]:
        batch = self._batches.at(step)
        wanted = {
            name: videos_Bx2
            for name, videos_Bx2 in batch._asdict().items()
            if name in ("videos_Bx2", "partners_Bx2", "held_out_Bx2") and videos_Bx2 is not None
        }
        videos_M = np.concatenate([videos_Bx2.reshape(-1) for videos_Bx2 in wanted.values()])
        places_M = np.arange(len(videos_M), dtype=np.int32).reshape(len(wanted), -1, 2)
        read, shapes = self._segments.at(step, videos_M), self._segments.shapes
        data = training_data(shapes, read, self._fixed, videos_M, self._runner)
        return data, batch._replace(**dict(zip(wanted, places_M, strict=True)))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Fixed(NamedTuple):
    """The training data besides the videos' features.

    Attributes:
      synthetic_V: whether each video is generated.
      bank_KxE: embedded anomaly prompts; None where text isn't used.
    """

    synthetic_V: np.ndarray
    bank_KxE: np.ndarray | None


def training_data(
    shapes: Mapping[str, tuple[int, ...]],
    read: ReadKind,
    fixed: Fixed,
    videos_V: np.ndarray,
    runner: Placing,
    at_least: int = 0,
) -> TrainingData:
    """Places the training data of some videos on the devices, padded to `at_least` rows."""

    def by_row(shape: tuple[int, ...], read_rows: Callable[[int, int], np.ndarray]) -> jax.Array:
        return runner.by_row((len(videos_V), *shape), read_rows, at_least)

    def features(kind: str) -> jax.Array:
        return by_row(shapes[kind], lambda start, stop: read(kind, start, stop))

    synthetic_V = fixed.synthetic_V[videos_V].astype(np.float32)
    return TrainingData(
        visual_VxNxTxD=features("visual"),
        text_VxTxE=features("text") if "text" in shapes else None,
        stream_VxTxE=features("stream") if "stream" in shapes else None,
        synthetic_V=by_row((), lambda start, stop: synthetic_V[start:stop]),
        bank_KxE=runner.on_each(fixed.bank_KxE),
    )
