"""Training videos averaged into segments, once: onto the devices, or into mapped files.

What fits goes to the devices whole and is gathered inside the step. What doesn't is segmented when
a batch first asks for it, kept in files beside the run, and gathered by a thread while the step
before runs, so that memory depends on the batch and not on the data.
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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from gvvad_jax.batches import Batch, Batches
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import Member, Standardisation
from gvvad_jax.store.files import write_atomically


def segment(feat_TxD: np.ndarray, num_segments: int) -> np.ndarray:
    """Averages T snippets into segments; an empty segment takes the snippet at its left border.

    Args:
      feat_TxD: any array with snippets on the leading axis.
      num_segments: S.

    Returns:
      float32 [S, ...]; borders are floor(linspace(0, T, S + 1)). Source: RTFM's data protocol.
    """
    borders = np.linspace(0, len(feat_TxD), num_segments + 1, dtype=int)
    out = np.empty((num_segments, *feat_TxD.shape[1:]), np.float32)
    for i, (left, right) in enumerate(itertools.pairwise(borders)):
        out[i] = feat_TxD[left : max(right, left + 1)].mean(axis=0, dtype=np.float32)
    return out


class Segments:
    """The training videos of a run, segmented and standardised, by their number.

    Args:
      members: the videos.
      standard: of the visual features.
      config: how many segments; whether text is used.
      folder: of the mapped files that keep what was segmented; not kept without.
    """

    def __init__(
        self,
        members: Sequence[Member],
        standard: Standardisation,
        config: TrainConfig,
        folder: pathlib.Path | None = None,
    ):
        manifest, num_videos = members[0].store.manifest, len(members)
        self._members, self._standard, self._segments = members, standard, config.segments
        self.shapes = {"visual": (manifest.crops["count"], config.segments, manifest.dim)}
        if config.uses_text:
            self.shapes["text"] = (config.segments, manifest.text["dim"])
        self._kept: dict[str, np.ndarray] = {}
        if folder:
            shapes = {kind: (num_videos, *shape) for kind, shape in self.shapes.items()}
            self._kept = _files(folder, shapes | {"done": (num_videos,)}, self._identity())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def num_bytes(self) -> int:
        """Of all videos together."""
        return len(self) * sum(4 * int(np.prod(shape)) for shape in self.shapes.values())

    def rows(self, kind: str, videos_V: Sequence[int]) -> np.ndarray:
        """Some videos: float32 [V, N, S, D] of kind `visual`, [V, S, E] of `text`."""
        rows = np.empty((len(videos_V), *self.shapes[kind]), np.float32)
        # Shown only where it takes a while: a store of hours is read once.
        for i, video in enumerate(tqdm.tqdm(videos_V, desc=f"segment {kind}", delay=5)):
            rows[i] = self._kept_row(kind, video) if self._kept else self._segmented(kind, video)
        # Else memory would seem to grow with all that a run has seen.
        for kept in self._kept.values():
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
        opened, video_id = self._members[video].store, self._members[video].video.id
        if kind == "text":
            found = segment(opened.text(video_id), self._segments)
        else:
            feat_SxNxD = segment(opened.visual(video_id), self._segments)
            found = self._standard.apply(feat_SxNxD).swapaxes(0, 1)
        opened.release()
        return found

    def _identity(self) -> str:
        digest = hashlib.sha256(
            json.dumps([self.shapes, self._standard.to_json()], sort_keys=True).encode()
        )
        for member in self._members:
            digest.update(f"{member.video.id} {member.row.sha256}\n".encode())
        return digest.hexdigest()


def _files(
    folder: pathlib.Path, shapes: Mapping[str, tuple[int, ...]], identity: str
) -> dict[str, np.ndarray]:
    """Mapped files of these shapes: what a killed run left of the same videos, else all zero."""
    path = folder / "of.txt"
    paths = {kind: folder / f"{kind}.npy" for kind in shapes}
    is_ours = path.exists() and path.read_text() == identity
    if not (is_ours and all(_has_shape(paths[kind], shape) for kind, shape in shapes.items())):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for kind, shape in shapes.items():
            np.lib.format.open_memmap(paths[kind], mode="w+", dtype=np.float32, shape=shape)
    arrays = {kind: np.load(each, mmap_mode="r+") for kind, each in paths.items()}
    # Last, so that a folder which was begun and no more isn't taken for whole.
    write_atomically(path, identity.encode())
    return arrays


def _has_shape(path: pathlib.Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):  # Deleted, or cut short.
        return False


def _reserve(mapped: np.memmap, video: int) -> None:
    """Takes the disk's blocks of a video's row, since on a full disk a mapping ends in a signal.

    Raises:
      UserError: the disk has no room for it.
    """
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
    """All training videos on the devices; a step gathers its own."""

    def __init__(self, segments: Segments, fixed: "Fixed", drawn: Batches, runner: Any):
        self._drawn = drawn
        self._data = _training_data(segments, fixed, np.arange(len(segments)), runner)

    def at(self, step: int) -> tuple[Any, Batch]:
        """(training data, batch) of step number `step`."""
        return self._data, self._drawn.at(step)

    def close(self) -> None:
        pass


class Ahead:
    """The videos of one batch at a time, gathered while the step before runs."""

    def __init__(self, segments: Segments, fixed: "Fixed", drawn: Batches, runner: Any):
        self._segments, self._fixed, self._drawn, self._runner = segments, fixed, drawn, runner
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._made: dict[int, concurrent.futures.Future] = {}

    def at(self, step: int) -> tuple[Any, Batch]:
        """(the batch's videos, the batch in their numbers) of step number `step`."""
        made = self._made.pop(step, None) or self._pool.submit(self._make, step)
        self._made = {step + 1: self._pool.submit(self._make, step + 1)}
        return made.result()

    def _make(self, step: int) -> tuple[Any, Batch]:
        batch = self._drawn.at(step)
        wanted = {
            name: videos_Bx2
            for name, videos_Bx2 in batch._asdict().items()
            if name in ("videos_Bx2", "partners_Bx2", "held_out_Bx2") and videos_Bx2 is not None
        }
        videos_M = np.concatenate([videos_Bx2.reshape(-1) for videos_Bx2 in wanted.values()])
        places_M = np.arange(len(videos_M), dtype=np.int32).reshape(len(wanted), -1, 2)
        data = _training_data(self._segments, self._fixed, videos_M, self._runner)
        return data, batch._replace(**dict(zip(wanted, places_M, strict=True)))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Fixed(NamedTuple):
    """What is known of the training videos besides their features.

    Attributes:
      synthetic_V: whether each is generated.
      bank_KxE: embedded anomaly prompts; None without text.
    """

    synthetic_V: np.ndarray
    bank_KxE: np.ndarray | None


def _training_data(segments: Segments, fixed: Fixed, videos_V: np.ndarray, runner: Any) -> Any:
    from gvvad_jax.step import TrainingData

    def placed(kind: str) -> Any:
        if kind not in segments.shapes:
            return None
        return runner.by_row(
            (len(videos_V), *segments.shapes[kind]),
            lambda start, stop: segments.rows(kind, videos_V[start:stop]),
        )

    synthetic_V = np.float32(fixed.synthetic_V[videos_V])
    return TrainingData(
        visual_VxNxTxD=placed("visual"),
        text_VxTxE=placed("text"),
        synthetic_V=runner.by_row(synthetic_V.shape, lambda start, stop: synthetic_V[start:stop]),
        bank_KxE=runner.on_each(fixed.bank_KxE),
    )
