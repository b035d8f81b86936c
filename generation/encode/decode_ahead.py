"""Decodes video files ahead of the models: the frames that each snippet needs.

An undamaged file is read twice: first its packets are counted, which determines its snippets, then
it is decoded once. `Source.messages` yields `Chunk`s, a few snippets of a video with the frames
they need, and finally the video's `Ending`; `ahead` runs it in a thread. Only a few chunks are in
memory at any time, however long the video is. Encoders and captioners that need whole videos get
all frames with the ending.

If a file turns out to be damaged, or holds another number of frames than of packets, it is decoded
again in one thread. The new messages have a new `DecodePlan`; those of the old plan are void.
"""

import collections
import dataclasses
import pathlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from generation.encode.recipe import Recipe
from generation.encode.reporting import DecodingBar
from generation.media import pixels, reading
from generation.media.containers import UnreadableError, nothing_decoded
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations

if TYPE_CHECKING:
    import torch

# A chunk is complete when its snippets have this many frames for the encoder, or this many bytes
# for the captioner: enough to fill batches, little enough to keep several chunks in memory.
CHUNK_FRAMES = 96
CHUNK_BYTES = 64 << 20
# Chunks in memory, including the one being decoded and the one being encoded.
CHUNKS_ALIVE = 4
# Whole videos in memory, counted likewise.
VIDEOS_ALIVE = 2
# Time stamps of cameras with a constant rate jitter less.
_UNEVEN_SECONDS = 0.5
Message = TypeVar("Message")


@dataclasses.dataclass(frozen=True, eq=False)
class DecodePlan:
    """Where a video's snippets are.

    Attributes:
      video: the video.
      fps: frames per second of the file.
      num_frames: number of frames of the file.
      rate: frames per second after the fps policy.
      spans_Tx2: [start, end) of each snippet in frames at `rate`.
      source_F: for each frame at `rate`, its index in the file.
    """

    video: annotations.VideoAnnotation
    fps: float
    num_frames: int
    rate: float
    spans_Tx2: np.ndarray
    source_F: np.ndarray


@dataclasses.dataclass
class Chunk:
    """The next snippets of a video, in order.

    Attributes:
      plan: plan of the video.
      prepared: for each snippet, the encoder's prepared frames.
      pictures: for each snippet, frames [k, H, W, 3] for the captioner; empty without one.
    """

    plan: DecodePlan
    prepared: "list[list[torch.Tensor]]"
    pictures: list[np.ndarray]


@dataclasses.dataclass
class Ending:
    """The end of a video.

    Attributes:
      plan: plan of the video.
      declared_frames: see reading.Video.
      faults: warnings about the file.
      pixel_statistics: results of pixels.Meter; None if nothing was measured.
      probes: frames that the encoder prepared for `consistency`, one per measured frame.
      frames_FxHxWx3: all frames at the plan's rate; None if no model needs whole videos.
    """

    plan: DecodePlan
    declared_frames: int
    faults: list[str]
    pixel_statistics: dict[str, float] | None
    probes: "list[torch.Tensor]"
    frames_FxHxWx3: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A file without a single frame that can be decoded."""

    video: annotations.VideoAnnotation
    reason: str


class Source:
    """Reads videos for a recipe.

    Args:
      videos: the list of all videos, with files and frame rates.
      recipe: says which frames are needed.
      measure: whether to measure pixels and consistency as well.
      bar: shows the share of the current video's frames that are decoded.
    """

    def __init__(
        self,
        videos: annotations.Annotations,
        recipe: Recipe,
        *,
        measure: bool = True,
        bar: DecodingBar | None = None,
    ):
        self._videos, self._recipe, self._measure = videos, recipe, measure
        self._bar = bar or DecodingBar(enabled=False)

    def messages(
        self, videos: Iterable[annotations.VideoAnnotation]
    ) -> Generator[Chunk | Ending | Unreadable, None, None]:
        """Yields each video's chunks and then its ending, or that it is unreadable.

        Raises:
          UserError: a frame rate is missing in the file and in videos.json, or impossible.
        """
        for video in videos:
            self._bar.start(video.id)
            path = self._videos.resolve(video)
            try:
                read = self._read_whole if self._recipe.whole_video else self._stream
                yield from read(video, path)
            except UnreadableError as error:
                # The path as in the list, because a store must not depend on its videos' location.
                yield Unreadable(video, str(error).replace(str(path), video.file))

    def _read_whole(
        self, video: annotations.VideoAnnotation, path: pathlib.Path
    ) -> Iterator[Chunk | Ending]:
        decoded = reading.read(path, on_progress=self._bar.update)
        frames_FxHxWx3 = decoded.frames_TxHxWx3
        plan = self._plan(video, decoded.fps, len(frames_FxHxWx3))
        meter = self._meter(plan)
        chunks = _Chunks(plan, self._recipe, meter, frames_FxHxWx3[0].nbytes)
        for index in chunks.wanted():
            yield from chunks.take(int(index), frames_FxHxWx3[index])
        ending = self._ending(plan, meter, chunks, decoded)
        if self._recipe.fps_policy == "native":
            ending.frames_FxHxWx3 = frames_FxHxWx3
        else:
            ending.frames_FxHxWx3 = frames_FxHxWx3[plan.source_F]
        yield ending

    def _stream(
        self, video: annotations.VideoAnnotation, path: pathlib.Path
    ) -> Iterator[Chunk | Ending]:
        reader = reading.Reader(path)
        count = reader.num_frames
        # The first pass suffices if there are as many frames as packets; the second pass counts
        # the frames for the third.
        for threads in (True, False, False):
            if not count:
                break
            plan = self._plan(video, reader.fps, count)
            meter = self._meter(plan)
            chunks = _Chunks(plan, self._recipe, meter, 3 * reader.height * reader.width)
            for index, picture in reader.frames(chunks.wanted(), threads=threads):
                self._bar.update(index + 1, count)
                yield from chunks.take(index, picture.rgb())
            if reader.decoded_frames == count and not (threads and reader.damaged):
                yield self._ending(plan, meter, chunks, reader)
                return
            count = reader.decoded_frames
        raise nothing_decoded(path, reader.declared_frames)

    def _plan(
        self, video: annotations.VideoAnnotation, fps: float | None, num_frames: int
    ) -> DecodePlan:
        fps = fps or video.fps
        if not fps:
            raise UserError(
                f"{self._videos.path}: video {video.id!r}: expected fps, found none in "
                f"{video.file} or here; add it to the entry"
            )
        recipe = self._recipe
        rate, source_F = fps, np.arange(num_frames)
        if recipe.fps_policy != "native":
            rate = float(recipe.fps_policy)
            try:
                source_F = alignment.resampled_frames(num_frames, fps, rate)
            except UserError as error:
                raise UserError(f"{self._videos.path}: video {video.id!r}: {error}") from error
        spans_Tx2 = alignment.snippet_spans(
            len(source_F), recipe.snippet_frames, recipe.snippet_stride
        )
        return DecodePlan(video, fps, num_frames, rate, spans_Tx2, source_F)

    def _meter(self, plan: DecodePlan) -> pixels.Meter | None:
        return pixels.Meter(plan.num_frames, plan.fps) if self._measure else None

    def _ending(
        self,
        plan: DecodePlan,
        meter: pixels.Meter | None,
        chunks: "_Chunks",
        decoded: reading.Video | reading.Reader,
    ) -> Ending:
        assert not chunks.pending, "some snippets lack frames"
        faults = []
        if decoded.damaged:
            faults.append(
                f"{decoded.damaged} packets or frames are damaged; the decodable frames are encoded"
            )
        if decoded.uneven_seconds > _UNEVEN_SECONDS:
            faults.append(
                f"time stamps deviate by up to {decoded.uneven_seconds:.1f} s from the assumed "
                f"{plan.fps:g} fps; re-encode the file at a constant rate if times matter"
            )
        statistics = None
        if meter is not None:
            statistics = meter.statistics(plan.num_frames, decoded.declared_frames)
        return Ending(plan, decoded.declared_frames, faults, statistics, chunks.probes, None)


class _Chunks:
    """Distributes a video's frames to encoder, captioner and meter, and yields complete chunks.

    Args:
      plan: plan of the video.
      recipe: says which frames are needed.
      meter: measures pixels; None to measure neither pixels nor consistency.
      frame_bytes: bytes of one RGB frame.

    Attributes:
      pending: incomplete chunks.
      probes: frames that the encoder prepared for `consistency` so far.
    """

    def __init__(
        self, plan: DecodePlan, recipe: Recipe, meter: pixels.Meter | None, frame_bytes: int
    ):
        self._plan, self._encoder, self._meter = plan, recipe.encoder, meter
        self._measured = set(meter.wanted.tolist()) if meter is not None else set()
        self.probes: list[torch.Tensor] = []
        self.pending: collections.deque[_Group] = collections.deque()
        captioner = recipe.snippet_captioner
        for start, end in plan.spans_Tx2.tolist():
            uses = [] if self._encoder.whole_video else self._encoder.frames_of(start, end)
            shows = captioner.frames_of(start, end) if captioner is not None else []
            uses, shows = (plan.source_F[list(frames)].tolist() for frames in (uses, shows))
            if not uses and not shows:
                return
            if not self.pending or not self.pending[-1].has_room(uses, shows, frame_bytes):
                self.pending.append(_Group())
            self.pending[-1].add(uses, shows)

    def wanted(self) -> np.ndarray:
        """Returns every frame that is needed, ascending."""
        needed = [frames for group in self.pending for frames in (group.used, group.shown)]
        return np.array(sorted(self._measured.union(*needed)), np.int64)

    def take(self, index: int, frame_HxWx3: np.ndarray) -> Iterator[Chunk]:
        """Takes the next of the wanted frames and yields the chunks that it completes."""
        if index in self._measured:
            self._meter.add(frame_HxWx3)
            if not self._encoder.whole_video:
                self.probes.append(self._encoder.prepare_whole(frame_HxWx3))
        prepared = None
        for group in self.pending:
            if group.first > index:
                break
            if index in group.used:
                prepared = self._encoder.prepare(frame_HxWx3) if prepared is None else prepared
                group.prepared[index] = prepared
            if index in group.shown:
                group.pictures[index] = frame_HxWx3
        while self.pending and self.pending[0].last <= index:
            yield self.pending.popleft().chunk(self._plan)


class _Group:
    """An incomplete chunk: snippets with the frames that they need.

    Attributes:
      used, shown: frames that the encoder and the captioner need.
      first, last: first and last of these frames.
      prepared, pictures: the frames so far, as the encoder and the captioner get them.
    """

    def __init__(self):
        self._uses: list[list[int]] = []
        self._shows: list[list[int]] = []
        self.used: set[int] = set()
        self.shown: set[int] = set()
        self.first: int | None = None
        self.last = -1
        self.prepared: dict[int, torch.Tensor] = {}
        self.pictures: dict[int, np.ndarray] = {}

    def has_room(self, uses: Sequence[int], shows: Sequence[int], frame_bytes: int) -> bool:
        """Returns whether a snippet that needs these frames fits in."""
        return (
            len(self.used.union(uses)) <= CHUNK_FRAMES
            and len(self.shown.union(shows)) * frame_bytes <= CHUNK_BYTES
        )

    def add(self, uses: list[int], shows: list[int]) -> None:
        """Adds a snippet that needs these frames."""
        self._uses.append(uses)
        self._shows.append(shows)
        self.used.update(uses)
        self.shown.update(shows)
        self.last = max(self.last, *uses, *shows)
        self.first = min(*uses, *shows, self.last) if self.first is None else self.first

    def chunk(self, plan: DecodePlan) -> Chunk:
        """Returns the complete chunk."""
        pictures = [
            np.stack([self.pictures[i] for i in frames]) for frames in self._shows if frames
        ]
        return Chunk(plan, [[self.prepared[i] for i in frames] for frames in self._uses], pictures)


def ahead(messages: Generator[Message, None, None], alive: int) -> Generator[Message, None, None]:
    """Runs a generator in a thread, so that it works while its items are processed.

    Args:
      messages: the generator; the thread closes it when this generator ends or is closed.
      alive: number of items in memory: those that wait, the one being made and the last one
        yielded.

    Raises:
      Exception: whatever `messages` raises.
    """
    out: queue.SimpleQueue[tuple[Message | None, BaseException | None]] = queue.SimpleQueue()
    room, stop = threading.Semaphore(alive), threading.Event()

    def run() -> None:
        try:
            while True:
                room.acquire()
                if stop.is_set():
                    return
                out.put((next(messages), None))
        except BaseException as error:
            out.put((None, error))
        finally:
            messages.close()

    thread = threading.Thread(target=run, name="decode", daemon=True)
    thread.start()
    try:
        while True:
            message, error = out.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield message
            del message
            room.release()
    finally:
        stop.set()
        room.release()
        thread.join()
