"""Video files -> the frames that models want, snippet by snippet, decoded ahead of the models.

A sound file is gone through twice: its packets are counted, which says where its snippets lie, and
then decoded once. `Source.messages` gives `Chunk`s, a few snippets of a video each with the frames
they need, and after them the video's `Ending`; `ahead` runs that in a thread. What is alive at any
time are a few chunks, however long the video. Encoders and captioners that want whole videos get
all frames with the ending.

Where a file turns out to be damaged, or holds another number of frames than packets, it is decoded
again with what is now known, on one thread, and messages come with another `Plan`; those of the
former plan are void.
"""

import collections
import dataclasses
import pathlib
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from generation.encode.recipe import Recipe
from generation.media import pixels, reading
from generation.media.containers import UnreadableError, nothing_decoded
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations

# A chunk is closed when its snippets have this many frames for the encoder, or this much for the
# captioner: enough to fill batches, little enough to keep several.
CHUNK_FRAMES = 96
CHUNK_BYTES = 64 << 20
# Chunks alive at once, the one being made and the one being encoded included.
CHUNKS_ALIVE = 4
# The same for whole videos.
VIDEOS_ALIVE = 2
# Time stamps of steady cameras jitter less.
_UNEVEN_SECONDS = 0.5
Message = TypeVar("Message")


@dataclasses.dataclass(frozen=True, eq=False)
class DecodePlan:
    """Where a video's snippets lie.

    Attributes:
      video: the video.
      fps: of the file.
      num_frames: of the file.
      rate: frames per second after the fps policy; spans count in it.
      spans_Tx2: [start, end) of each snippet.
      source_F: which frame of the file is each frame at that rate.
    """

    video: annotations.VideoAnnotation
    fps: float
    num_frames: int
    rate: float
    spans_Tx2: np.ndarray
    source_F: np.ndarray


@dataclasses.dataclass
class Chunk:
    """Some snippets of a video, in order, after those of the chunks before it.

    Attributes:
      plan: of the video.
      prepared: a list a snippet, the encoder's prepared frames.
      pictures: an array [k, H, W, 3] a snippet, for a captioner of snippets; empty without one.
    """

    plan: DecodePlan
    prepared: list[list[Any]]
    pictures: list[np.ndarray]


@dataclasses.dataclass
class Ending:
    """A video is through.

    Attributes:
      plan: of the video.
      declared_frames: see video_io.Video.
      faults: what is to be told of the file, beside the two counts.
      pixel_statistics: None where nobody measured.
      probes: the encoder's `prepare_whole`d frames, at the meter's times.
      frames_FxHxWx3: all frames at the plan's rate; None where nobody wants whole videos.
    """

    plan: DecodePlan
    declared_frames: int
    faults: list[str]
    pixel_statistics: dict[str, float] | None
    probes: list[Any]
    frames_FxHxWx3: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A file of which not one frame could be decoded."""

    video: annotations.VideoAnnotation
    reason: str


class Source:
    """Reads videos for a recipe.

    Args:
      videos: for files and frame rates.
      recipe: says which frames are wanted.
      measure: whether pixels and consistency are measured as well.
    """

    def __init__(self, videos: annotations.Annotations, recipe: Recipe, *, measure: bool = True):
        self._videos, self._recipe, self._measure = videos, recipe, measure

    def messages(
        self, videos: Iterable[annotations.VideoAnnotation]
    ) -> Iterator[Chunk | Ending | Unreadable]:
        """Each video's chunks and then its ending, or that it can't be read.

        Raises:
          UserError: a frame rate is neither in the file nor in videos.json, or no possible one.
        """
        for video in videos:
            path = self._videos.resolve(video)
            try:
                read = self._read_whole if self._recipe.whole_video else self._stream
                yield from read(video, path)
            except UnreadableError as error:
                # As the list names it: a store doesn't depend on where its videos lay.
                yield Unreadable(video, str(error).replace(str(path), video.file))

    def _read_whole(self, video, path: pathlib.Path) -> Iterator[Chunk | Ending]:
        decoded = reading.read(path)
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

    def _stream(self, video, path: pathlib.Path) -> Iterator[Chunk | Ending]:
        reader = reading.Reader(path)
        count = reader.num_frames
        # With as many frames as packets, the first pass; the third with the second one's count.
        for threads in (True, False, False):
            if not count:
                break
            plan = self._plan(video, reader.fps, count)
            meter = self._meter(plan)
            chunks = _Chunks(plan, self._recipe, meter, 3 * reader.height * reader.width)
            for index, frame_HxWx3 in reader.frames(chunks.wanted(), threads=threads):
                yield from chunks.take(index, frame_HxWx3)
            if reader.decoded_frames == count and not (threads and reader.damaged):
                yield self._ending(plan, meter, chunks, reader)
                return
            count = reader.decoded_frames
        raise nothing_decoded(path, reader.declared_frames)

    def _plan(self, video, fps: float | None, num_frames: int) -> DecodePlan:
        fps = fps or video.fps
        if not fps:
            raise UserError(
                f"{self._videos.path}: video {video.id!r}: expected fps, found it neither in "
                f"{video.file} nor here; add it to the entry"
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
        self, plan: DecodePlan, meter, chunks: "_Chunks", of: reading.Video | reading.Reader
    ) -> Ending:
        assert not chunks.pending, "every snippet's frames have come"
        faults = []
        if of.damaged:
            faults.append(
                f"{of.damaged} packets or frames are damaged; what could be decoded is encoded"
            )
        if of.uneven_seconds > _UNEVEN_SECONDS:
            faults.append(
                f"frames are up to {of.uneven_seconds:.1f} s off from {plan.fps:g} a second, as "
                "which they are taken; re-encode it at a constant rate where times matter"
            )
        statistics = None
        if meter is not None:
            statistics = meter.statistics(plan.num_frames, of.declared_frames)
        return Ending(plan, of.declared_frames, faults, statistics, chunks.probes, None)


class _Chunks:
    """Hands a video's frames to whom they are for, and gives chunks as they become complete.

    Args:
      plan: of the video.
      recipe: says which frames are wanted.
      meter: measures pixels; None for no measures, of consistency neither.
      frame_bytes: of one RGB frame.

    Attributes:
      pending: what isn't complete.
      probes: what the encoder measures consistency on, as far as frames have come.
    """

    def __init__(
        self, plan: DecodePlan, recipe: Recipe, meter: pixels.Meter | None, frame_bytes: int
    ):
        self._plan, self._encoder, self._meter = plan, recipe.encoder, meter
        self._measured = set(meter.wanted.tolist()) if meter is not None else set()
        self.probes: list[Any] = []
        self.pending: collections.deque[_Group] = collections.deque()
        captioner = recipe.captioner_of_snippets
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
        """Every frame that somebody wants, rising."""
        of_groups = [frames for group in self.pending for frames in (group.used, group.shown)]
        return np.array(sorted(self._measured.union(*of_groups)), np.int64)

    def take(self, index: int, frame_HxWx3: np.ndarray) -> Iterator[Chunk]:
        """The next of the wanted frames; gives the chunks that it completes."""
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
    """A chunk to come: its snippets, by which frames of the file they want."""

    def __init__(self):
        self._uses: list[list[int]] = []
        self._shows: list[list[int]] = []
        self.used: set[int] = set()
        self.shown: set[int] = set()
        self.first, self.last = None, -1
        self.prepared: dict[int, Any] = {}
        self.pictures: dict[int, np.ndarray] = {}

    def has_room(self, uses: Sequence[int], shows: Sequence[int], frame_bytes: int) -> bool:
        return (
            len(self.used.union(uses)) <= CHUNK_FRAMES
            and len(self.shown.union(shows)) * frame_bytes <= CHUNK_BYTES
        )

    def add(self, uses: list[int], shows: list[int]) -> None:
        self._uses.append(uses)
        self._shows.append(shows)
        self.used.update(uses)
        self.shown.update(shows)
        self.last = max(self.last, *uses, *shows)
        self.first = min(*uses, *shows, self.last) if self.first is None else self.first

    def chunk(self, plan: DecodePlan) -> Chunk:
        pictures = [
            np.stack([self.pictures[i] for i in frames]) for frames in self._shows if frames
        ]
        return Chunk(plan, [[self.prepared[i] for i in frames] for frames in self._uses], pictures)


def ahead(messages: Iterator[Message], alive: int) -> Iterator[Message]:
    """Runs an iterator in a thread, so that it works while its items are being worked on.

    Args:
      messages: closed in the thread when this ends, for whatever reason.
      alive: items at once: those that wait, the one being made and the one that was given out,
        until the next is asked for.

    Raises:
      Whatever `messages` raises.
    """
    out: queue.SimpleQueue = queue.SimpleQueue()
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
